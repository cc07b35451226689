//! The batch simulator: flows, one bottleneck, a virtual clock that advances in steps.
//!
//! A step is a 64th of the round trip, between 20 µs and 500 µs: short against every time constant
//! of a controller, which receives four reports per round trip, and long enough that a minute of
//! 400 Gb/s takes a second. In a step each flow sends one batch, the bottleneck serves its queue,
//! and receivers and senders process what has arrived.

use crate::bbr::Bbr;
use crate::cross::{Acknowledgment, CrossFlow, acknowledgment_of};
use crate::cubic::Cubic;
use crate::flow::{CulvertFlow, FlowOptions};
use crate::link::{Batch, Link, Path};
use crate::series::{Sample, Waits};
use std::collections::VecDeque;

/// Bytes of the packets of cross traffic.
const CROSS_PACKET_BYTES: f64 = 9_000.0;

/// What a flow is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A flow of Culvert's.
    Culvert(FlowOptions),
    /// A TCP CUBIC flow.
    Cubic,
    /// A TCP BBR flow.
    Bbr,
}

/// A flow and its time.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Seconds after which it begins.
    pub from_seconds: f64,
    /// Seconds after which it ends.
    pub until_seconds: f64,
}

impl Entry {
    /// A flow from the beginning to the end.
    #[must_use]
    pub const fn always(kind: Kind) -> Self {
        Self { kind, from_seconds: 0.0, until_seconds: f64::INFINITY }
    }

    /// A flow from a time on.
    #[must_use]
    pub const fn from(kind: Kind, from_seconds: f64) -> Self {
        Self { kind, from_seconds, until_seconds: f64::INFINITY }
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The path at first.
    pub path: Path,
    /// Its changes: after how many seconds, and to what; in order.
    pub changes: Vec<(f64, Path)>,
    /// The flows.
    pub flows: Vec<Entry>,
    /// Virtual seconds.
    pub seconds: f64,
    /// Delivery and queue are judged from this time on, in seconds.
    pub judged_from_seconds: f64,
    /// Where all randomness comes from.
    pub seed: u64,
}

/// The result.
#[derive(Debug)]
pub struct Outcome {
    /// Payload bits per second of each flow over the judged time; of cross traffic those of whole
    /// packets.
    pub delivered: Vec<f64>,
    /// Waits at the bottleneck over the judged time.
    pub waits: Waits,
    /// Samples of the whole run.
    pub samples: Vec<Sample>,
    /// Part of Culvert's packets that were lost.
    pub loss: f64,
    /// When flows with an end had all that they sent, in seconds.
    pub finished_seconds: Vec<Option<f64>>,
}

#[derive(Debug)]
enum Agent {
    Waiting,
    Culvert(Box<CulvertFlow>),
    Cross { sender: Box<dyn CrossFlow>, acknowledgments: VecDeque<(u64, Acknowledgment)>, delivered_bytes: f64 },
    Gone { delivered_bytes: f64 },
}

impl Agent {
    fn delivered_bytes(&self) -> f64 {
        match self {
            Self::Waiting => 0.0,
            Self::Culvert(flow) => flow.delivered_bytes,
            Self::Cross { delivered_bytes, .. } | Self::Gone { delivered_bytes } => *delivered_bytes,
        }
    }

    fn rate(&self) -> f64 {
        match self {
            Self::Culvert(flow) => flow.rate_bits_per_second() as f64,
            Self::Cross { sender, .. } => sender.rate_bits_per_second(),
            Self::Waiting | Self::Gone { .. } => 0.0,
        }
    }
}

struct World<'a> {
    scene: &'a Scene,
    link: Link,
    agents: Vec<Agent>,
    dark_since_ns: u64,
    step_ns: u64,
}

/// Runs a scene.
#[must_use]
pub fn run(scene: &Scene) -> Outcome {
    let step_ns = (scene.path.rtt_ns / 64).clamp(20_000, 500_000);
    let mut world = World {
        scene,
        link: Link::new(scene.path, scene.flows.len(), scene.seed),
        agents: scene.flows.iter().map(|_| Agent::Waiting).collect(),
        dark_since_ns: 0,
        step_ns,
    };
    let steps = (scene.seconds * 1e9 / step_ns as f64) as u64;
    let judged_from_ns = (scene.judged_from_seconds * 1e9) as u64;
    let sample_ns = (scene.path.rtt_ns / 2).max(10_000_000);
    let mut changes = scene.changes.iter().peekable();
    let mut recorder = Recorder::new(scene.flows.len());
    let (mut waits, mut judged_before) = (Waits::default(), None);
    for step in 1..=steps {
        // The clocks of both ends have been running for a while when a run begins.
        let now_ns = step * step_ns;
        while let Some((_, path)) = changes.next_if(|(seconds, _)| now_ns as f64 >= seconds * 1e9) {
            world.change(*path, now_ns);
        }
        world.come_and_go(now_ns);
        world.step(now_ns);
        let queue_ns = world.link.queue_ns();
        recorder.queue_ms = recorder.queue_ms.max(queue_ns / 1e6);
        if now_ns >= judged_from_ns {
            judged_before.get_or_insert_with(|| world.delivered());
            waits.push(queue_ns);
        }
        if now_ns >= recorder.next_ns {
            recorder.record(&world, now_ns, sample_ns);
        }
    }
    let judged_seconds = scene.seconds - scene.judged_from_seconds;
    let before = judged_before.unwrap_or_else(|| vec![0.0; scene.flows.len()]);
    let delivered =
        world.delivered().iter().zip(&before).map(|(now, before)| (now - before) * 8.0 / judged_seconds).collect();
    let (lost, sent, finished_seconds) = world.totals();
    Outcome { delivered, waits, samples: recorder.samples, loss: lost / sent.max(1.0), finished_seconds }
}

impl World<'_> {
    fn change(&mut self, path: Path, now_ns: u64) {
        if path.is_dark && !self.link.path.is_dark {
            self.dark_since_ns = now_ns;
        }
        self.link.path = path;
        for agent in &mut self.agents {
            if let Agent::Culvert(flow) = agent {
                flow.path_changed(&path, now_ns, self.dark_since_ns);
            }
        }
    }

    fn come_and_go(&mut self, now_ns: u64) {
        let seconds = now_ns as f64 / 1e9;
        for (at, (agent, entry)) in self.agents.iter_mut().zip(&self.scene.flows).enumerate() {
            if matches!(agent, Agent::Waiting) && seconds >= entry.from_seconds {
                let cross = |sender| Agent::Cross { sender, acknowledgments: VecDeque::new(), delivered_bytes: 0.0 };
                *agent = match entry.kind {
                    Kind::Culvert(options) => {
                        let seed = self.scene.seed ^ ((at as u64 + 1) << 32);
                        Agent::Culvert(Box::new(CulvertFlow::new(options, &self.link.path, now_ns, seed)))
                    }
                    Kind::Cubic => cross(Box::new(Cubic::new(CROSS_PACKET_BYTES, now_ns))),
                    Kind::Bbr => cross(Box::new(Bbr::new(CROSS_PACKET_BYTES, now_ns, at))),
                };
            } else if !matches!(agent, Agent::Gone { .. }) && seconds >= entry.until_seconds {
                *agent = Agent::Gone { delivered_bytes: agent.delivered_bytes() };
            }
        }
    }

    fn step(&mut self, now_ns: u64) {
        let mut batches = Vec::with_capacity(self.agents.len());
        for (flow, agent) in self.agents.iter_mut().enumerate() {
            let (packets, packet_bytes) = match agent {
                Agent::Culvert(culvert) => (culvert.send(self.step_ns), culvert.packet_bytes),
                Agent::Cross { sender, .. } => (sender.send(now_ns, self.step_ns), CROSS_PACKET_BYTES),
                Agent::Waiting | Agent::Gone { .. } => continue,
            };
            if packets > 0.0 {
                batches.push(Batch { flow, sent_ns: now_ns, packets, lost: 0.0, packet_bytes });
            }
        }
        self.link.offer(&batches, self.step_ns);
        self.link.serve(now_ns, self.step_ns);
        let back_ns = self.link.path.rtt_ns - self.link.path.rtt_ns / 2;
        while let Some((arrival_ns, batch)) = self.link.arrival(now_ns) {
            match &mut self.agents[batch.flow] {
                Agent::Culvert(flow) => flow.receive(&batch, arrival_ns),
                Agent::Cross { acknowledgments, delivered_bytes, .. } => {
                    *delivered_bytes += batch.packets * batch.packet_bytes;
                    acknowledgments.push_back((arrival_ns + back_ns, acknowledgment_of(&batch)));
                }
                Agent::Waiting | Agent::Gone { .. } => {}
            }
        }
        for agent in &mut self.agents {
            match agent {
                Agent::Culvert(flow) => {
                    flow.report(now_ns);
                    flow.observe(now_ns);
                }
                Agent::Cross { sender, acknowledgments, .. } => {
                    while let Some(&(at_ns, seen)) = acknowledgments.front().filter(|(at_ns, _)| *at_ns <= now_ns) {
                        acknowledgments.pop_front();
                        sender.on_acknowledgment(&seen, at_ns);
                    }
                }
                Agent::Waiting | Agent::Gone { .. } => {}
            }
        }
    }

    fn delivered(&self) -> Vec<f64> {
        self.agents.iter().map(Agent::delivered_bytes).collect()
    }

    /// Packets lost and sent of Culvert's flows, and when those with an end were done.
    fn totals(&self) -> (f64, f64, Vec<Option<f64>>) {
        let flows =
            || self.agents.iter().filter_map(|agent| if let Agent::Culvert(flow) = agent { Some(flow) } else { None });
        let lost = flows().map(|flow| flow.lost_packets).sum();
        let sent = flows().map(|flow| flow.sent_packets).sum();
        (lost, sent, flows().map(|flow| flow.finished_ns.map(|ns| ns as f64 / 1e9)).collect())
    }
}

struct Recorder {
    next_ns: u64,
    samples: Vec<Sample>,
    delivered: Vec<f64>,
    lost: f64,
    sent: f64,
    queue_ms: f64,
}

impl Recorder {
    fn new(flows: usize) -> Self {
        Self { next_ns: 0, samples: Vec::new(), delivered: vec![0.0; flows], lost: 0.0, sent: 0.0, queue_ms: 0.0 }
    }

    fn record(&mut self, world: &World<'_>, now_ns: u64, sample_ns: u64) {
        let delivered = world.delivered();
        let (lost, sent, _) = world.totals();
        let seconds = sample_ns as f64 / 1e9;
        self.samples.push(Sample {
            seconds: now_ns as f64 / 1e9,
            delivered: delivered
                .iter()
                .zip(&self.delivered)
                .map(|(now, before)| (now - before) * 8.0 / seconds)
                .collect(),
            rates: world.agents.iter().map(Agent::rate).collect(),
            queue_ms: self.queue_ms,
            loss: (lost - self.lost) / (sent - self.sent).max(1.0),
        });
        (self.delivered, self.lost, self.sent, self.queue_ms) = (delivered, lost, sent, 0.0);
        self.next_ns = now_ns + sample_ns;
    }
}
