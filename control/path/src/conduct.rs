//! The asking end of a check: one step after the other over the control connection, within the time
//! and rate that both permit.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

mod bounds;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::clock::unix_ms;
use culvert_engine::connecting::connect;
use culvert_engine::connection::{Connection, INTRODUCTION_TIMEOUT};
use culvert_engine::engine::Engine;
use culvert_engine::transfer::error::TransferError;
use culvert_model::request::Target;
use culvert_perfsonar::clock::ClockQuality;
use culvert_perfsonar::probe::mtu::{self, MtuSearch, SizeFate};
use culvert_perfsonar::probe::ramp::Ramp;
use culvert_perfsonar::probe::{self, Stop, echo, reflect, trace, train};
use culvert_perfsonar::socket::{ProbeSocket, header_bytes};
use culvert_perfsonar::stamp::{Authentication, SessionResult};
use culvert_protocol::control::{Message, PATH_CHECKS_SINCE, RefusalCode};
use culvert_protocol::counted::counted;
use culvert_protocol::path::{
    PathMessage, PathPermission, PathReport, PathRequest, PathStep, ReplySize, Route, StepKind, TraceKind, Train,
    TrainReceived, TrainSent,
};
use culvert_system::os_error::{self, without_numbers};

use crate::answer::TRAIN_US_MAX;
use crate::check::{Direction, PathCheck, Side};
use crate::plan::Plan;
use crate::probing::probing;

/// Trains of the ramp.
const TRAIN_US: u32 = 100_000;
/// By how much the bottleneck is exceeded to fill its buffer.
const BUFFER_EXCESS: f64 = 1.5;
/// How often the partner hears something while this side is busy elsewhere.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long a hop may take to answer.
const HOP_WAIT: Duration = Duration::from_millis(500);

/// Told what the check is doing.
pub type CheckObserver<'a> = &'a mut (dyn FnMut(&str) + Send);

struct Conductor<'a> {
    connection: Connection,
    socket: Arc<ProbeSocket>,
    authentication: Authentication,
    plan: &'a Plan,
    permission: PathPermission,
    far_end: SocketAddr,
    deadline: Instant,
    stop: Stop,
    step: u16,
    rtt: Duration,
    check: PathCheck,
    tell: CheckObserver<'a>,
}

/// Checks the path to a partner. A check that was cut short is a partial result, not an error.
///
/// # Errors
/// [`TransferError`]: no connection, no permission.
pub async fn check(
    engine: &Engine,
    target: &Target,
    plan: &Plan,
    tell: CheckObserver<'_>,
) -> Result<PathCheck, TransferError> {
    tell("connecting");
    let mut connection = connect(engine, target, false).await?;
    if connection.version < PATH_CHECKS_SINCE {
        let text =
            format!("the partner runs {}, which does not answer path checks: update it", connection.partner_software);
        return Err(TransferError::here(RefusalCode::Version, text));
    }
    let request = PathRequest {
        seconds_max: plan.seconds_max,
        rate_bits_per_second_max: plan.rate_bits_per_second_max,
        datagram_bytes_max: engine.datagram_bytes_towards(connection.address),
    };
    connection.writer.send(Message::Path(PathMessage::Ask(request))).await?;
    let answer = tokio::time::timeout(INTRODUCTION_TIMEOUT, connection.reader.next()).await;
    let permission = match answer.map_err(|_| {
        TransferError::here(RefusalCode::Temporary, "the partner does not answer the request for a path check")
    })?? {
        Message::Path(PathMessage::Permitted(permission)) => permission,
        Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
        other => {
            return Err(culvert_engine::transfer::manifest_exchange::unexpected(&other, "an answer to the path check"));
        }
    };
    let far_end = SocketAddr::new(connection.address.ip().to_canonical(), permission.udp_port);
    let failed = |error: std::io::Error| {
        TransferError::os(os_error::errno_or_io(&error), format!("no probe can be sent to {far_end}: {error}"))
    };
    let socket = ProbeSocket::towards(far_end).map_err(failed)?;
    let _ = socket.ask_buffers(probe::SOCKET_BUFFER_BYTES);
    socket.probe_mtu().and_then(|()| socket.keep_errors()).map_err(failed)?;
    let farewell = connection.pending_close();
    let began = Instant::now();
    let seconds = plan.seconds_max.min(permission.seconds_max);
    let partner = partner_name(engine, target, &connection);
    let authentication = probe::authentication(connection.secret.expose());
    let mut conductor = Conductor {
        connection,
        socket: Arc::new(socket),
        authentication,
        plan,
        permission,
        far_end,
        // What a clock cannot say is no time at all.
        deadline: began.checked_add(Duration::from_secs(seconds.into())).unwrap_or(began),
        stop: Stop::default(),
        step: 0,
        rtt: Duration::from_millis(50),
        check: PathCheck {
            partner,
            address: far_end.ip().to_string(),
            at_unix_ms: unix_ms(),
            seconds: 0.0,
            complete: true,
            problems: Vec::new(),
            transfers_meanwhile: 0,
            rtt: None,
            rtt_histogram_ms: std::collections::BTreeMap::new(),
            clock: ClockQuality::here(),
            one_way_error_us: None,
            rejected: 0,
            send: Direction::default(),
            receive: Direction::default(),
        },
        tell,
    };
    let interface_bytes = request.datagram_bytes_max;
    if let Err(why) = conductor.run(interface_bytes).await {
        conductor.check.complete = false;
        conductor.check.problems.push(why);
    }
    let mut check = conductor.check;
    check.complete &= check.problems.is_empty();
    check.seconds = began.elapsed().as_secs_f64();
    let _ = conductor.connection.writer.send(Message::Path(PathMessage::End)).await;
    drop(conductor.connection);
    farewell.wait().await;
    Ok(check)
}

/// What records call the partner: its profile's name wherever it has one.
fn partner_name(engine: &Engine, target: &Target, connection: &Connection) -> String {
    match engine.partners.with_key(connection.partner) {
        Ok(Some((name, _))) => name,
        _ => target.to_string(),
    }
}

impl Conductor<'_> {
    /// All steps. An error ends the check; what a single step lacks is noted.
    async fn run(&mut self, interface_bytes: u16) -> Result<(), String> {
        self.echoes().await?;
        let headers = u32::from(header_bytes(self.socket.is_ipv6()));
        let ceilings = bounds::ceilings([interface_bytes, self.permission.datagram_bytes_max], headers);
        for (side, ceiling) in Side::ALL.into_iter().zip(ceilings) {
            if self.plan.mtu {
                self.mtu(side, ceiling).await?;
            }
        }
        for side in Side::ALL {
            if self.plan.trace {
                self.routes(side).await?;
            }
        }
        for (side, ceiling) in Side::ALL.into_iter().zip(ceilings) {
            let mtu_bytes = self.check.side(side).mtu.map(|mtu| mtu.bytes);
            let packet_bytes = bounds::train_packet_bytes(ceiling, mtu_bytes, headers);
            if self.plan.rate {
                self.rate(side, packet_bytes).await?;
            }
            if self.plan.buffer {
                self.buffer(side, packet_bytes).await?;
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err("the time is up: the rest was not measured".to_owned()) } else { Ok(left) }
    }

    fn problem(&mut self, what: impl Into<String>) {
        self.check.problems.push(what.into());
    }

    /// How long an answer may take: a few round trips, and time for a busy host.
    fn patience(&self) -> Duration {
        self.rtt.saturating_mul(3).clamp(Duration::from_millis(100), Duration::from_secs(2))
    }

    async fn send(&mut self, message: PathMessage) -> Result<(), String> {
        self.connection
            .writer
            .send(Message::Path(message))
            .await
            .map_err(|_| "the control connection was cut".to_owned())
    }

    async fn next(&mut self) -> Result<PathMessage, String> {
        // The partner works within the same time; a little more distinguishes a slow one from a
        // dead one.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let patience = left.saturating_add(INTRODUCTION_TIMEOUT);
        match tokio::time::timeout(patience, self.connection.reader.next()).await {
            Ok(Ok(Message::Path(message))) => Ok(message),
            Ok(Ok(Message::Refused(refusal))) => Err(format!("the partner ended the check: {refusal}")),
            Ok(Ok(_)) => Err("the partner broke the protocol of path checks".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the partner stopped answering".to_owned()),
        }
    }

    /// Begins a step whose probes this side sends or answers.
    async fn begin(&mut self, kind: StepKind) -> Result<u16, String> {
        self.left()?;
        self.step = self.next_step()?;
        self.send(PathMessage::Step(PathStep { number: self.step, kind })).await?;
        if !matches!(kind, StepKind::SendTrain(_) | StepKind::Trace(_)) {
            match self.next().await? {
                PathMessage::Ready => {}
                _ => return Err("the partner broke the protocol of path checks".to_owned()),
            }
        }
        Ok(self.step)
    }

    /// The number of the step that is about to begin.
    fn next_step(&self) -> Result<u16, String> {
        self.step.checked_add(1).ok_or_else(|| "the check has more steps than can be numbered".to_owned())
    }

    async fn report(&mut self) -> Result<PathReport, String> {
        match self.next().await? {
            PathMessage::Report(report) => Ok(report),
            _ => Err("the partner broke the protocol of path checks".to_owned()),
        }
    }

    async fn done(&mut self) -> Result<PathReport, String> {
        self.send(PathMessage::Done).await?;
        self.report().await
    }

    async fn echoes(&mut self) -> Result<(), String> {
        (self.tell)("round trips, loss and order");
        let left = self.left()?;
        let number = self.begin(StepKind::Reflect(ReplySize::Same)).await?;
        let plan = bounds::echo_plan(self.plan, self.permission.rate_bits_per_second_max, left, number);
        let (socket, authentication, stop) = (self.socket.clone(), self.authentication.clone(), self.stop.clone());
        let result = probing(move || echo::run(&socket, &authentication, &plan, &stop)).await;
        let report = self.done().await?;
        match result {
            Ok(result) if result.round_trip.received > 0 => {
                self.note_echoes(&result, &report);
                Ok(())
            }
            Ok(result) => {
                self.check.rejected = result.rejected.values().sum();
                let arrived = matches!(report, PathReport::Reflected { received, .. } if received > 0);
                let way = if arrived {
                    "probes reach the partner, but its answers do not come back: open UDP for established flows towards this host".to_owned()
                } else {
                    format!(
                        "no probe reaches the partner: open UDP port {} for this host in the firewalls between the nodes",
                        self.far_end.port()
                    )
                };
                Err(way)
            }
            Err(error) => Err(format!("the partner's UDP port {} is closed ({error})", self.far_end.port())),
        }
    }

    fn note_echoes(&mut self, result: &SessionResult, report: &PathReport) {
        let check = &mut self.check;
        check.rtt = result.rtt;
        check.rtt_histogram_ms = result.histogram_ms.clone();
        check.one_way_error_us = result.one_way_error_us;
        check.rejected = result.rejected.values().sum();
        let [there, back] = result.one_way_histograms_ms.clone();
        check.send.delay_histogram_ms = there;
        check.receive.delay_histogram_ms = back;
        check.send.delay = result.forward_delay;
        check.receive.delay = result.reverse_delay;
        [check.send.delivery, check.receive.delivery] = bounds::deliveries(result, report);
        if let Some(rtt) = result.rtt {
            self.rtt = Duration::from_nanos(bounds::whole(rtt.p99_us.max(0.0) * 1e3));
        }
        for (rejection, count) in &result.rejected {
            self.check.problems.push(format!("ignored {}: {rejection}", counted(*count, "answer")));
        }
    }

    async fn mtu(&mut self, side: Side, ceiling: u32) -> Result<(), String> {
        (self.tell)(if side == Side::Send { "MTU to the partner" } else { "MTU from the partner" });
        let mut search = MtuSearch::new(ceiling, self.socket.is_ipv6());
        let patience = self.patience();
        if side == Side::Send {
            let number = self.begin(StepKind::Reflect(ReplySize::Short)).await?;
            while let Some(size) = search.next_size() {
                self.left()?;
                let fate = self.try_size(number, size, patience).await?;
                if !fate.passed {
                    // The partner does not receive packets that are too big.
                    let _ = echo::sign_of_life(&self.socket, &self.authentication, number);
                }
                note_fate(&mut search, size, fate);
            }
            self.done().await?;
        } else {
            let headers = u32::from(header_bytes(self.socket.is_ipv6()));
            while let Some(size) = search.next_size() {
                let number =
                    self.begin(StepKind::Reflect(ReplySize::Bytes(bounds::datagram_bytes(size, headers)))).await?;
                let shortest = u32::from(probe::PROBE_BYTES_MIN).saturating_add(headers);
                let fate = self.try_size(number, shortest, patience).await?;
                let too_big = match self.done().await? {
                    PathReport::Reflected { too_big: 1.., mtu, .. } => Some(mtu),
                    _ => None,
                };
                note_fate(&mut search, size, SizeFate { too_big, ..fate });
            }
        }
        self.check.side_mut(side).mtu = search.result();
        if search.result().is_none() {
            self.problem(format!("the MTU in direction {} was not determined: no probe was answered", side.word()));
        }
        Ok(())
    }

    async fn try_size(&self, number: u16, size: u32, patience: Duration) -> Result<SizeFate, String> {
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        probing(move || mtu::try_size(&socket, &authentication, number, size, patience))
            .await
            .map_err(|error| error.to_string())
    }

    async fn routes(&mut self, side: Side) -> Result<(), String> {
        (self.tell)(if side == Side::Send { "route to the partner" } else { "route from the partner" });
        for kind in [TraceKind::Udp, TraceKind::Icmp] {
            let route = match side {
                Side::Send => self.route_out(kind).await?,
                Side::Receive => self.route_back(kind).await?,
            };
            match route {
                Ok(route) if kind == TraceKind::Udp => self.check.side_mut(side).route_udp = Some(route),
                Ok(route) => self.check.side_mut(side).route_icmp = Some(route),
                // ICMP needs a permission that many hosts do not give; UDP's route stands.
                Err(why) if kind == TraceKind::Icmp => {
                    (self.tell)(&format!("no ICMP route in direction {}: {}", side.word(), with_remedy(side, &why)));
                }
                Err(why) => self.problem(format!("no route in direction {}: {why}", side.word())),
            }
        }
        Ok(())
    }

    async fn route_out(&mut self, kind: TraceKind) -> Result<Result<Route, String>, String> {
        let (socket, authentication, stop, far_end) =
            (self.socket.clone(), self.authentication.clone(), self.stop.clone(), self.far_end);
        let wait = self.patience().max(HOP_WAIT);
        let number = self.begin(StepKind::Reflect(ReplySize::Short)).await?;
        let route = if kind == TraceKind::Icmp {
            let tracing = probing(move || trace::icmp(far_end.ip(), wait, &stop));
            self.with_signs_of_life(number, tracing).await
        } else {
            probing(move || trace::udp(&socket, &authentication, number, far_end, wait, &stop)).await
        };
        self.done().await?;
        Ok(route.map_err(|error| error.to_string()))
    }

    /// Runs an operation that the partner does not notice, and sends it signs of life.
    async fn with_signs_of_life<T>(&self, number: u16, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    let _ = echo::sign_of_life(&self.socket, &self.authentication, number);
                }
            }
        }
    }

    async fn route_back(&mut self, kind: TraceKind) -> Result<Result<Route, String>, String> {
        let stop = Stop::default();
        // The partner's probes carry the number of the step that is about to begin.
        let plan = reflect::ReflectPlan {
            number: self.next_step()?,
            reply: ReplySize::Short,
            partner: self.far_end.ip(),
            packets_per_second_max: 1_000,
            bits_per_second_max: self.plan.rate_bits_per_second_max,
            // This side's socket is connected to the partner's.
            own_port: None,
            until: self.deadline,
        };
        let (socket, authentication, stopped) = (self.socket.clone(), self.authentication.clone(), stop.clone());
        let reflecting = tokio::spawn(probing(move || reflect::run(&socket, &authentication, &plan, &stopped, |_| {})));
        let report = match self.begin(StepKind::Trace(kind)).await {
            Ok(_) => self.report().await,
            Err(why) => Err(why),
        };
        stop.stop();
        let _ = reflecting.await;
        Ok(match report? {
            PathReport::Route(route) => Ok(route),
            PathReport::Failed(why) => Err(why),
            _ => Err("the partner reports something else".to_owned()),
        })
    }

    /// One train; none if one side failed.
    async fn train(&mut self, side: Side, train: Train) -> Result<Option<(TrainSent, TrainReceived)>, String> {
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        // Packets in flight when the train has been sent still arrive.
        let tail = self.patience().saturating_add(Duration::from_millis(50));
        if side == Side::Send {
            let number = self.begin(StepKind::TakeTrain).await?;
            let stop = self.stop.clone();
            let sent = probing(move || train::send(&socket, &authentication, number, &train, &stop)).await;
            tokio::time::sleep(tail).await;
            return Ok(match (sent, self.done().await?) {
                (Ok(sent), PathReport::TrainReceived(received)) => Some((sent, received)),
                (Err(error), _) => {
                    self.problem(format!("a train could not be sent: {error}"));
                    None
                }
                (_, PathReport::Failed(why)) => {
                    self.problem(format!("the partner could not receive a train: {why}"));
                    None
                }
                _ => return Err("the partner broke the protocol of path checks".to_owned()),
            });
        }
        let stop = Stop::default();
        let (number, until) = (self.next_step()?, self.deadline);
        let stop_taking = stop.clone();
        let taking =
            tokio::spawn(probing(move || train::receive(&socket, &authentication, number, until, &stop_taking)));
        let report = match self.begin(StepKind::SendTrain(train)).await {
            Ok(_) => self.report().await,
            Err(why) => Err(why),
        };
        tokio::time::sleep(tail).await;
        stop.stop();
        let taken = taking.await.map_err(|error| error.to_string())?;
        Ok(match (report?, taken) {
            (PathReport::TrainSent(sent), Ok(received)) => Some((sent, received)),
            (PathReport::Failed(why), _) => {
                self.problem(format!("the partner could not send a train: {why}"));
                None
            }
            (_, Err(error)) => {
                self.problem(format!("a train could not be received: {error}"));
                None
            }
            _ => return Err("the partner broke the protocol of path checks".to_owned()),
        })
    }

    async fn rate(&mut self, side: Side, packet_bytes: u16) -> Result<(), String> {
        (self.tell)(if side == Side::Send {
            "available rate to the partner"
        } else {
            "available rate from the partner"
        });
        let cap = self.plan.rate_bits_per_second_max.min(self.permission.rate_bits_per_second_max);
        let mut ramp = Ramp::new(cap);
        let mut out_of_time = false;
        while let Some(rate) = ramp.next_rate() {
            if self.left().is_err() {
                out_of_time = true;
                break;
            }
            let train = Train { rate_bits_per_second: rate, duration_us: TRAIN_US, packet_bytes };
            let Some((sent, received)) = self.train(side, train).await? else { break };
            ramp.note(rate, &sent, &received);
        }
        self.check.side_mut(side).rate = ramp.result(out_of_time);
        if ramp.result(out_of_time).is_none() {
            self.problem(format!(
                "the available rate in direction {} was not determined: no train arrived complete",
                side.word()
            ));
        }
        if out_of_time { Err("the time is up: the rest was not measured".to_owned()) } else { Ok(()) }
    }

    async fn buffer(&mut self, side: Side, packet_bytes: u16) -> Result<(), String> {
        (self.tell)(if side == Side::Send { "buffer to the partner" } else { "buffer from the partner" });
        let Some(bottleneck) = self.check.side(side).rate.and_then(|rate| rate.delivered_bits_per_second) else {
            self.problem(format!("the buffer in direction {} was not measured: the path was never overdriven, so its bottleneck is not known", side.word()));
            return Ok(());
        };
        let cap = self.plan.rate_bits_per_second_max.min(self.permission.rate_bits_per_second_max);
        let rate = bounds::whole(bottleneck as f64 * BUFFER_EXCESS).min(cap);
        let train = Train { rate_bits_per_second: rate, duration_us: TRAIN_US_MAX, packet_bytes };
        if let Some((_, received)) = self.train(side, train).await? {
            let buffer_bytes = bounds::buffer_bytes(bottleneck, &received);
            self.check.side_mut(side).buffer_bytes = buffer_bytes;
            if buffer_bytes.is_none() {
                self.problem(format!(
                    "the buffer in direction {} was not measured: it is too deep to fill in a \
                     second, or nothing was lost",
                    side.word()
                ));
            }
        }
        Ok(())
    }
}

/// Why there is no ICMP route, and what would change that.
fn with_remedy(side: Side, why: &str) -> String {
    let why = without_numbers(why);
    // In the words of EPERM and EACCES, which may be the partner's.
    if !why.contains("Operation not permitted") && !why.contains("Permission denied") {
        return why;
    }
    let host = if side == Side::Send { "this host" } else { "the partner's host" };
    format!("{why}; on {host} the group of Culvert's account must be within net.ipv4.ping_group_range")
}

fn note_fate(search: &mut MtuSearch, size: u32, fate: SizeFate) {
    search.note(size, fate.passed);
    if let Some(mtu) = fate.too_big {
        search.too_big(size, mtu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_lacks_a_permission_says_which() {
        let error = std::io::Error::from_raw_os_error(1).to_string();
        let text = with_remedy(Side::Send, &error);
        assert!(text.starts_with("Operation not permitted; on this host"), "{text}");
        assert!(text.ends_with("net.ipv4.ping_group_range"), "{text}");
        assert_eq!(with_remedy(Side::Receive, "No route to host (os error 113)"), "No route to host");
    }
}
