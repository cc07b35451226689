//! `culvert bench`: measures this host against its own limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_dataplane::limit::{LimitEnd, LimitReceiver, LimitResult, Work, send_limit};
use culvert_link::kernel_bypass::Mode;
use culvert_model::exit_code::ExitCode;
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::units::show_rate;
use culvert_node::settings::Settings;
use culvert_node::settings::lanes::SOCKET_BUFFER_BYTES;
use culvert_plane::next_hop::Tables;
use culvert_protocol::counted::counted;
use culvert_state::StateDirectory;

use crate::args::{BenchArgs, BenchWhat, EngineArgs, GlobalArgs, LimitArgs, NetArgs};
use crate::embedded_node::{carry_out_here, embedded};
use crate::exit::CommandError;
use crate::operands::{options_of, target_of};
use crate::report::{self, ReportOptions, print_json, say};
use crate::runtime::block_on;
use crate::scratch_directory::ScratchDirectory;
use crate::second_node::SecondNode;

/// Runs `culvert bench`.
///
/// # Errors
/// [`CommandError`].
pub fn run(global: GlobalArgs, args: BenchArgs) -> Result<ExitCode, CommandError> {
    match args.what {
        BenchWhat::Limit(limit) => crate::bench::limit(&limit, args.json),
        BenchWhat::Net(net) => block_on(crate::bench::net(global, net, args.json)),
        BenchWhat::Disk { directory, size } => crate::disk_bench::run(&directory, size, args.json),
        BenchWhat::Ledger => crate::ledger::run(args.json),
    }
}

fn pin(core: Option<usize>) -> Result<(), CommandError> {
    match core {
        Some(id) if !core_affinity::set_for_current(core_affinity::CoreId { id }) => {
            Err(CommandError::new(ExitCode::BadHost, format!("this process may not run on core {id}")))
        }
        _ => Ok(()),
    }
}

/// One end of a measurement, according to the arguments.
fn end_of(args: &LimitArgs, bind: IpAddr, port: u16, partner: Option<IpAddr>) -> Result<LimitEnd, CommandError> {
    if args.datapath == "udp" {
        return LimitEnd::udp(bind, port, SOCKET_BUFFER_BYTES).map_err(CommandError::failed);
    }
    let bad_host = |error: String| CommandError::new(ExitCode::BadHost, error);
    let tables = Tables::open().map_err(|error| bad_host(error.to_string()))?;
    let mut start =
        tables.interface(args.interface.as_deref(), partner).map_err(|error| bad_host(error.to_string()))?;
    start.only = [Mode::ZeroCopy, Mode::Copy, Mode::Skb]
        .into_iter()
        .find(|mode| args.af_xdp_mode.as_deref() == Some(mode.name()));
    let interface = start.interface;
    let find = Box::new(move |to: IpAddr| tables.next_hop(to.to_canonical(), interface).ok().flatten());
    LimitEnd::af_xdp(&start, bind, port, find).map_err(|error| bad_host(error.to_string()))
}

fn limit(args: &LimitArgs, json: bool) -> Result<ExitCode, CommandError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = args.core.filter(|&core| cores.iter().all(|known| known.id != core)) {
        let known: Vec<String> = cores.iter().map(|known| known.id.to_string()).collect();
        return Err(CommandError::usage(format!(
            "--core {core} is not among the cores this process may run on: {}",
            known.join(", ")
        )));
    }
    if args.core.is_some() && args.receive.is_none() && args.send.is_none() {
        return Err(CommandError::usage(
            "--core applies to a single end, with --send or --receive: both ends in one process run \
             on the first and the last core",
        ));
    }
    let address = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| CommandError::usage(format!("'{text}' is not an address with a port")))
    };
    if let Some(listen) = &args.receive {
        pin(args.core)?;
        let listen = address(listen)?;
        let receiver = end_of(args, listen.ip(), listen.port(), None)?;
        if !json {
            say_aside!("culvert: receiving on UDP port {}", receiver.port());
        }
        let mode = receiver.mode();
        return show_limit("received", &receiver.receive(), mode, args, json);
    }
    if let Some(to) = &args.send {
        pin(args.core)?;
        let to = address(to)?;
        let unspecified: IpAddr =
            if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let sender = end_of(args, unspecified, 0, Some(to.ip()))?;
        let mode = sender.mode();
        let sent = sender.send(to, work_of(args)).map_err(CommandError::failed)?;
        return show_limit("sent and acknowledged", &sent, mode, args, json);
    }
    if args.datapath != "udp" {
        return Err(CommandError::usage(
            "both ends in one process have no interface between them: start one with --receive, the other with --send",
        ));
    }
    both_ends(args, &cores, json)
}

/// Measures between two threads of this process, on different cores if there are two.
fn both_ends(args: &LimitArgs, cores: &[core_affinity::CoreId], json: bool) -> Result<ExitCode, CommandError> {
    let receiver = LimitReceiver::bind(std::net::Ipv4Addr::LOCALHOST.into(), 0).map_err(CommandError::failed)?;
    let to = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), receiver.port());
    let last = cores.last().copied();
    let receiving = std::thread::spawn(move || {
        last.map(core_affinity::set_for_current);
        receiver.run()
    });
    if let Some(&first) = cores.first() {
        core_affinity::set_for_current(first);
    }
    let sent = send_limit(to, args.datagram.into(), args.seconds, !args.plain).map_err(CommandError::failed);
    let received = receiving.join().map_err(|_| CommandError::failed("the receiving thread panicked"))?;
    sent?;
    show_limit("received", &received, None, args, json)
}

fn work_of(args: &LimitArgs) -> Work {
    Work { datagram_bytes: args.datagram.into(), seconds: args.seconds, sealed: !args.plain, windowed: !args.no_window }
}

fn show_limit(
    what: &str,
    result: &LimitResult,
    mode: Option<Mode>,
    args: &LimitArgs,
    json: bool,
) -> Result<ExitCode, CommandError> {
    if result.frames_missing > 0 {
        let missing = result.frames_missing;
        return Err(CommandError::failed(format!(
            "{} of AF_XDP's packet memory did not come back",
            counted(missing, "frame")
        )));
    }
    if json {
        print_json(&serde_json::json!({
            "datapath": args.datapath,
            "af_xdp_mode": mode.map(Mode::name),
            "datagram_bytes": args.datagram,
            "bytes": result.bytes,
            "datagrams": result.datagrams,
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,
            "bits_per_second": result.bits_per_second() as u64,
        }))?;
    } else {
        say(&format!(
            "{what} {} in {}-byte datagrams{}, {} ({:.0} % of a core)",
            show_rate(result.bits_per_second() as u64),
            args.datagram,
            mode.map_or_else(String::new, |mode| format!(" through AF_XDP ({})", mode.name())),
            if args.plain { "without a cipher" } else { "sealed with AES-256-GCM" },
            result.cpu_seconds * 100.0 / result.seconds.max(1e-9)
        ))?;
    }
    Ok(ExitCode::Done)
}

/// Refuses options that the second node on this host cannot have. Both nodes listen on loopback, on
/// free ports.
fn require_second(global: &GlobalArgs, engine: &EngineArgs) -> Result<(), CommandError> {
    Settings::resolve(&global.flags(engine))?.engine(false, None)?;
    let mut others = engine.flags.clone();
    (others.cores, others.memory, others.mtu) = (None, None, None);
    let refused = others.given().find(|(_, value)| *value != "udp");
    match refused.map(|(flag, _)| flag.typed) {
        Some(option) => Err(CommandError::usage(format!(
            "{option} is for a measurement with a partner: without one both nodes are on this machine, over loopback"
        ))),
        None => Ok(()),
    }
}

/// Measures the engine from memory to memory.
async fn net(global: GlobalArgs, args: NetArgs, json: bool) -> Result<ExitCode, CommandError> {
    let report_options = ReportOptions { json, quiet: global.quiet, ..ReportOptions::default() };
    let options = options_of(&args.options)?;
    let movement = Movement::Measure { bytes: args.size };
    let Some(partner) = &args.partner else {
        require_second(&global, &args.engine)?;
        let room = ScratchDirectory::in_directory(&std::env::temp_dir(), "culvert-bench-")?;
        let second = SecondNode::start(room.path(), &args.engine).await?;
        let request = TransferRequest {
            target: Target::Profile(SecondNode::NAME.to_owned()),
            movement,
            options,
            retries: Some(0),
        };
        let node = second.this_node().clone();
        let result = carry_out_here(&node, request, global.quiet || json).await;
        second.end().await;
        let mut result = result?;
        if !json {
            // Its receipt is removed with the directory.
            result.transfer.clear();
        }
        return report::print(&result, report_options, &node.state);
    };
    let settings = Settings::resolve(&global.flags(&args.engine))?;
    let state = StateDirectory::open(&settings.state.value)?;
    let node = embedded(&settings, &state, None)?;
    let location = crate::location::parse(partner.as_ref())?;
    let target = match &location {
        crate::location::Location::Local(path) => Target::Profile(path.to_string()),
        location => target_of(location),
    };
    let request = TransferRequest { target, movement, options, retries: Some(0) };
    let result = carry_out_here(&node, request, global.quiet || json).await?;
    report::print(&result, report_options, &state)
}
