-- Culvert's datagrams in Wireshark and tshark: docs/wire.md, W-1 to W-7.
--
--   tshark -X lua_script:culvert.lua -r FILE
--   wireshark: copy it to the folder of personal Lua plugins (Help, About, Folders)
--
-- Datagrams from or to the ports in the preferences are taken for Culvert's, and marked where they break a rule. On other ports a datagram is
-- taken if it breaks none. The header is in clear; the payload behind it is sealed and stays so.

local HEADER_BYTES = 32
local TAG_BYTES = 16
local OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
local STRIDE_MIN = 512
local CHUNK_BYTES_MAX = 16 * 1024 * 1024
local VERSION = 1
local EPOCH_BITS = 22
local DATA, PROBE, REPLY, OPENING = 0, 1, 2, 3
local KINDS = { [DATA] = "data", [PROBE] = "probe", [REPLY] = "probe reply", [OPENING] = "opening" }

local culvert = Proto("culvert", "Culvert data")

local field = {
    version = ProtoField.uint8("culvert.version", "Version"),
    kind = ProtoField.uint8("culvert.kind", "Kind", base.DEC, KINDS),
    stride = ProtoField.uint16("culvert.stride", "Stride", base.DEC, nil, nil, "Payload bytes of each segment of the chunk but the last"),
    flow_id = ProtoField.uint32("culvert.flow_id", "Flow id", base.HEX, nil, nil, "Chosen by the data's receiver"),
    packet_number = ProtoField.uint64("culvert.packet_number", "Packet number", base.DEC, nil, nil, "Counts the datagrams of this flow and direction"),
    epoch = ProtoField.uint64("culvert.epoch", "Key epoch", base.DEC, nil, nil, "The packet number without its lowest 22 bits"),
    chunk = ProtoField.uint32("culvert.chunk", "Chunk", base.DEC, nil, nil, "Which chunk of the transfer"),
    chunk_bytes = ProtoField.uint32("culvert.chunk_bytes", "Chunk bytes", base.DEC, nil, nil, "Bytes of the whole chunk"),
    index = ProtoField.uint32("culvert.segment_index", "Segment index", base.DEC, nil, nil, "The payload begins at index times stride"),
    offset = ProtoField.uint64("culvert.offset", "Offset in the chunk"),
    payload_bytes = ProtoField.uint32("culvert.payload_bytes", "Payload bytes"),
    token = ProtoField.uint32("culvert.token", "Probe token"),
    arrived_bytes = ProtoField.uint32("culvert.arrived_bytes", "Bytes that arrived", base.DEC, nil, nil, "Bytes of the probe's datagram, as its receiver saw it"),
    sent = ProtoField.uint32("culvert.sent_us", "Sent", base.DEC, nil, nil, "The clock of the probe's or data's sender in microseconds, wrapping"),
    payload = ProtoField.bytes("culvert.payload", "Sealed payload"),
    tag = ProtoField.bytes("culvert.tag", "AES-GCM tag"),
}
culvert.fields = field

local broken = {
    short = ProtoExpert.new("culvert.malformed.short", "Shorter than a header and a tag", expert.group.MALFORMED, expert.severity.ERROR),
    version = ProtoExpert.new("culvert.malformed.version", "Not version 1 (W-2)", expert.group.MALFORMED, expert.severity.ERROR),
    kind = ProtoExpert.new("culvert.malformed.kind", "No such kind (W-3)", expert.group.MALFORMED, expert.severity.ERROR),
    shape = ProtoExpert.new("culvert.malformed.shape", "Stride, chunk or index out of bounds (W-4)", expert.group.MALFORMED, expert.severity.ERROR),
    length = ProtoExpert.new("culvert.malformed.length", "Not as long as its fields announce (W-5)", expert.group.MALFORMED, expert.severity.ERROR),
    cut = ProtoExpert.new("culvert.cut", "The capture has not the whole header", expert.group.UNDECODED, expert.severity.NOTE),
}
culvert.experts = broken

culvert.prefs.ports = Pref.range("UDP ports", "7273-7304", "Ports of lanes: those of a node begin with 7273, one for each lane", 65535)

-- Payload bytes of a data segment; 0 if it begins behind the end of its chunk.
local function payload_bytes(stride, chunk_bytes, index)
    return math.max(0, math.min(stride, chunk_bytes - index * stride))
end

-- The first rule that a datagram breaks, by its name in `broken`.
local function first_flaw(tvb)
    local bytes = tvb:reported_len()
    if bytes < OVERHEAD_BYTES then return "short" end
    if tvb:captured_len() < HEADER_BYTES then return "cut" end
    if tvb(0, 1):uint() ~= VERSION then return "version" end
    local kind = tvb(1, 1):uint()
    if not KINDS[kind] then return "kind" end
    if kind == DATA then
        local stride, chunk_bytes, index = tvb(2, 2):uint(), tvb(20, 4):uint(), tvb(24, 4):uint()
        local payload = payload_bytes(stride, chunk_bytes, index)
        if stride < STRIDE_MIN or chunk_bytes > CHUNK_BYTES_MAX or payload == 0 then return "shape" end
        if bytes ~= OVERHEAD_BYTES + payload then return "length" end
    elseif kind ~= PROBE and bytes ~= OVERHEAD_BYTES then
        return "length"
    end
    return nil
end

-- Adds the header's fields and returns what the list of packets says.
local function add_header(tvb, tree)
    local kind = tvb(1, 1):uint()
    local what = KINDS[kind] or string.format("kind %d", kind)
    local flow, number = tvb(4, 4):uint(), tvb(8, 8):uint64()
    tree:add(field.version, tvb(0, 1))
    tree:add(field.kind, tvb(1, 1))
    tree:add(field.stride, tvb(2, 2))
    tree:add(field.flow_id, tvb(4, 4))
    tree:add(field.packet_number, tvb(8, 8))
    tree:add(field.epoch, tvb(8, 8), number:rshift(EPOCH_BITS)):set_generated()
    local text = string.format("%s, flow 0x%08x, packet %s", what, flow, tostring(number))
    if kind == PROBE or kind == REPLY then
        tree:add(field.token, tvb(16, 4))
        text = text .. string.format(", token %d", tvb(16, 4):uint())
    else
        tree:add(field.chunk, tvb(16, 4))
    end
    tree:add(field.chunk_bytes, tvb(20, 4))
    if kind == REPLY then
        tree:add(field.arrived_bytes, tvb(24, 4))
        text = text .. string.format(", %d bytes arrived", tvb(24, 4):uint())
    else
        tree:add(field.index, tvb(24, 4))
    end
    tree:add(field.sent, tvb(28, 4)):append_text(" µs")
    if kind == DATA then
        local stride, chunk_bytes, index = tvb(2, 2):uint(), tvb(20, 4):uint(), tvb(24, 4):uint()
        local payload = payload_bytes(stride, chunk_bytes, index)
        tree:add(field.offset, tvb(24, 4), UInt64(index) * UInt64(stride)):set_generated()
        tree:add(field.payload_bytes, tvb(20, 8), payload):set_generated()
        text = text .. string.format(", chunk %d, segment %d, %d bytes", tvb(16, 4):uint(), index, payload)
    end
    return text
end

-- Adds what follows the header, as far as it was captured.
local function add_sealed(tvb, tree)
    local sealed_end = tvb:reported_len() - TAG_BYTES
    local captured = tvb:captured_len()
    local payload_end = math.min(sealed_end, captured)
    if payload_end > HEADER_BYTES then
        tree:add(field.payload, tvb(HEADER_BYTES, payload_end - HEADER_BYTES))
    end
    if captured >= sealed_end + TAG_BYTES and sealed_end >= HEADER_BYTES then
        tree:add(field.tag, tvb(sealed_end, TAG_BYTES))
    end
end

local function dissect(tvb, pinfo, root)
    pinfo.cols.protocol = "Culvert"
    local tree = root:add(culvert, tvb())
    local flaw = first_flaw(tvb)
    local text = "too short for a header"
    if tvb:captured_len() >= HEADER_BYTES then
        text = add_header(tvb, tree)
        add_sealed(tvb, tree)
    end
    tree:append_text(", " .. text)
    if flaw then
        tree:add_proto_expert_info(broken[flaw])
        if flaw ~= "cut" then text = "[malformed: " .. flaw .. "] " .. text end
    end
    pinfo.cols.info = text
    return tvb:captured_len()
end

culvert.dissector = dissect

culvert:register_heuristic("udp", function(tvb, pinfo, root)
    if first_flaw(tvb) then return false end
    dissect(tvb, pinfo, root)
    return true
end)

local by_port = DissectorTable.get("udp.port")
by_port:add_for_decode_as(culvert)
local ports = culvert.prefs.ports
by_port:add(ports, culvert)

function culvert.prefs_changed()
    if culvert.prefs.ports == ports then return end
    if ports ~= "" then by_port:remove(ports, culvert) end
    ports = culvert.prefs.ports
    if ports ~= "" then by_port:add(ports, culvert) end
end
