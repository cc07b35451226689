//! The initiating end of a check: one step after the other over the control connection, within the
//! time and rate that both ends permit.
//!
//! This file has the conversation, the echoes and the MTU search; `routes` and `trains` have
//! the other steps. The partner's reports are claims: `bounds` limits whatever follows from their
//! numbers.
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
mod routes;
mod trains;

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
use culvert_perfsonar::probe::mtu::{self, MtuSearch, SizeResult};
use culvert_perfsonar::probe::{self, Stop, echo};
use culvert_perfsonar::socket::{ProbeSocket, header_bytes};
use culvert_perfsonar::stamp::{Authentication, SessionResult};
use culvert_protocol::control::{Message, PATH_CHECKS_SINCE, RefusalCode};
use culvert_protocol::counted::counted;
use culvert_protocol::path::{PathMessage, PathPermission, PathReport, PathRequest, PathStep, ReplySize, StepKind};
use culvert_system::os_error;

use crate::check::{Direction, PathCheck, Side};
use crate::plan::Plan;
use crate::probing::probing;

/// Called with what the check is doing.
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
    let request = PathRequest {
        seconds_max: plan.seconds_max,
        rate_bits_per_second_max: plan.rate_bits_per_second_max,
        datagram_bytes_max: engine.datagram_bytes_towards(connection.address),
    };
    let permission = ask(&mut connection, request).await?;
    let far_end = SocketAddr::new(connection.address.ip().to_canonical(), permission.udp_port);
    let socket = probe_socket(far_end).map_err(|error| {
        TransferError::os(os_error::errno_or_io(&error), format!("no probe can be sent to {far_end}: {error}"))
    })?;
    let pending_close = connection.pending_close();
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
    pending_close.wait().await;
    Ok(check)
}

/// Asks the partner for a check.
async fn ask(connection: &mut Connection, request: PathRequest) -> Result<PathPermission, TransferError> {
    if connection.version < PATH_CHECKS_SINCE {
        let text =
            format!("the partner runs {}, which does not answer path checks: update it", connection.partner_software);
        return Err(TransferError::here(RefusalCode::Version, text));
    }
    connection.writer.send(Message::Path(PathMessage::Ask(request))).await?;
    let answer = tokio::time::timeout(INTRODUCTION_TIMEOUT, connection.reader.next()).await;
    match answer.map_err(|_| {
        TransferError::here(RefusalCode::Temporary, "the partner does not answer the request for a path check")
    })?? {
        Message::Path(PathMessage::Permitted(permission)) => Ok(permission),
        Message::Refused(refusal) => Err(TransferError::Partner(refusal)),
        other => Err(culvert_engine::transfer::manifest_exchange::unexpected(&other, "an answer to the path check")),
    }
}

fn probe_socket(far_end: SocketAddr) -> std::io::Result<ProbeSocket> {
    let socket = ProbeSocket::towards(far_end)?;
    let _ = socket.ask_buffers(probe::SOCKET_BUFFER_BYTES);
    socket.probe_mtu()?;
    socket.keep_errors()?;
    Ok(socket)
}

/// The name under which records keep the partner: its profile's name if it has one.
fn partner_name(engine: &Engine, target: &Target, connection: &Connection) -> String {
    match engine.partners.with_key(connection.partner) {
        Ok(Some((name, _))) => name,
        _ => target.to_string(),
    }
}

impl Conductor<'_> {
    /// Runs all steps. An error ends the check; a problem of a single step is noted.
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

    /// How long to wait for an answer: a few round trips, and time for a busy host.
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
        // The partner has the same deadline. Waiting a little longer distinguishes a slow partner
        // from a dead one.
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

    /// Announces a step. Returns its number when the partner is ready for its probes.
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
                let why = if arrived {
                    "probes reach the partner, but its answers do not come back: open UDP for established flows towards this host".to_owned()
                } else {
                    format!(
                        "no probe reaches the partner: open UDP port {} for this host in the firewalls between the nodes",
                        self.far_end.port()
                    )
                };
                Err(why)
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
                let result = self.try_size(number, size, patience).await?;
                if !result.passed {
                    // Packets that are too big do not reach the partner, which must not take this
                    // side for silent.
                    let _ = echo::sign_of_life(&self.socket, &self.authentication, number);
                }
                note_size(&mut search, size, result);
            }
            self.done().await?;
        } else {
            let headers = u32::from(header_bytes(self.socket.is_ipv6()));
            while let Some(size) = search.next_size() {
                let number =
                    self.begin(StepKind::Reflect(ReplySize::Bytes(bounds::datagram_bytes(size, headers)))).await?;
                let shortest = u32::from(probe::PROBE_BYTES_MIN).saturating_add(headers);
                let result = self.try_size(number, shortest, patience).await?;
                let too_big = match self.done().await? {
                    PathReport::Reflected { too_big: 1.., mtu, .. } => Some(mtu),
                    _ => None,
                };
                note_size(&mut search, size, SizeResult { too_big, ..result });
            }
        }
        self.check.side_mut(side).mtu = search.result();
        if search.result().is_none() {
            self.problem(format!("the MTU in direction {} was not determined: no probe was answered", side.word()));
        }
        Ok(())
    }

    async fn try_size(&self, number: u16, size: u32, patience: Duration) -> Result<SizeResult, String> {
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        probing(move || mtu::try_size(&socket, &authentication, number, size, patience))
            .await
            .map_err(|error| error.to_string())
    }
}

fn note_size(search: &mut MtuSearch, size: u32, result: SizeResult) {
    search.note(size, result.passed);
    if let Some(mtu) = result.too_big {
        search.too_big(size, mtu);
    }
}
