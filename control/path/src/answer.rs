//! The answering end of a check: permits it within this node's limits, and carries out each step.
//!
//! A check keeps its slot as long as messages or probes of the partner arrive, and not beyond the
//! permitted time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_engine::connection::{Connection, MessageReader};
use culvert_engine::engine::Engine;
use culvert_perfsonar::probe::{self, Stop, reflect, trace, train};
use culvert_perfsonar::socket::ProbeSocket;
use culvert_perfsonar::stamp::Authentication;
use culvert_protocol::control::{Message, Refusal, RefusalCode};
use culvert_protocol::path::{
    PathMessage, PathPermission, PathReport, PathRequest, PathStep, ReplySize, StepKind, TraceKind, Train,
};
use culvert_system::os_error;
use tokio::time::{sleep, timeout};

use crate::probing::probing;
use crate::service::PathService;
use crate::slots::{Port, SlotPool, TRAIN_TURN, count};

/// The most steps of a check.
const STEPS_MAX: u32 = 1_000;
/// The most trains of a check: two ramps of 24 and two trains for buffers make 50.
const TRAINS_MAX: u32 = 64;
/// The longest train, in microseconds.
pub const TRAIN_US_MAX: u32 = 1_000_000;
/// The most echoes answered in a second.
pub const ECHOES_PER_SECOND_MAX: u32 = 50_000;
/// How long a trace waits for the answer to a probe.
const TRACE_WAIT: Duration = Duration::from_millis(500);
/// How long a partner may be silent, on the control connection and with probes. The slowest MTU
/// search is silent for six seconds.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often the silence is checked.
const SILENCE_CHECK: Duration = Duration::from_millis(500);
/// How long a step with a train may take: the train, its tail, and messages on a slow path.
const TRAIN_STEP_MAX: Duration = Duration::from_secs(10);
/// How much longer than permitted a check may take, for the messages of its last step.
const MARGIN: Duration = Duration::from_secs(5);

/// Why a check ends early.
enum EarlyEnd {
    /// The connection is closed.
    Gone,
    /// Neither messages nor probes arrive.
    Silent,
    /// The time of the check or of a step is up.
    Overdue,
    /// The partner receives this refusal.
    Refused(Refusal),
}

/// Answers a partner's check.
pub async fn answer(
    engine: &Engine,
    service: &PathService,
    mut connection: Connection,
    request: PathRequest,
    partner: &str,
) {
    let (writer, pending_close) = (connection.writer.clone(), connection.pending_close());
    let counters = &service.checks.counters;
    let refused = match may_ask(engine, service, partner).and_then(|()| service.checks.take(connection.partner)) {
        Ok(_slot) => carry_out(engine, service, &mut connection, request)
            .await
            .err()
            .and_then(|end| note(service, end, &request)),
        Err(refusal) => {
            count(if refusal.code == RefusalCode::NotPermitted { &counters.not_permitted } else { &counters.busy });
            Some(refusal)
        }
    };
    drop(connection);
    if let Some(refusal) = refused {
        let _ = writer.send(Message::Refused(refusal)).await;
    }
    drop(writer);
    pending_close.wait().await;
}

/// Counts how a check ended early, and returns the message for the partner.
fn note(service: &PathService, end: EarlyEnd, request: &PathRequest) -> Option<Refusal> {
    let counters = &service.checks.counters;
    let temporary = |text: String| Some(Refusal::new(RefusalCode::Temporary, text));
    match end {
        EarlyEnd::Gone => {
            count(&counters.broken);
            None
        }
        EarlyEnd::Silent => {
            count(&counters.silent);
            temporary(format!(
                "the path check has ended: nothing was received from this partner for {} s",
                SILENCE_MAX.as_secs()
            ))
        }
        EarlyEnd::Overdue => {
            count(&counters.overdue);
            let seconds = service.settings().path.seconds_max().min(request.seconds_max);
            temporary(format!(
                "the check takes longer than the {seconds} s that this node permits, or a train longer than {} s",
                TRAIN_STEP_MAX.as_secs()
            ))
        }
        EarlyEnd::Refused(refusal) => {
            count(if refusal.code == RefusalCode::Temporary { &counters.busy } else { &counters.broken });
            Some(refusal)
        }
    }
}

fn may_ask(engine: &Engine, service: &PathService, partner: &str) -> Result<(), Refusal> {
    let settings = service.settings().path;
    if settings.answer == Some(false) || settings.refuse.iter().any(|refused| refused == partner) {
        let text = format!(
            "'{}' does not permit path checks to this partner: its admin can permit them in the table [path] of culvert.toml",
            engine.name
        );
        return Err(Refusal::new(RefusalCode::NotPermitted, text));
    }
    Ok(())
}

async fn carry_out(
    engine: &Engine,
    service: &PathService,
    connection: &mut Connection,
    request: PathRequest,
) -> Result<(), EarlyEnd> {
    let checks = &service.checks;
    let port = Arc::new(unless_gone(&mut connection.reader, checks.port()).await?.map_err(EarlyEnd::Refused)?);
    let (socket, permission) = permit(engine, service, connection, &request).map_err(EarlyEnd::Refused)?;
    let partner = connection.address.ip().to_canonical();
    let (shared, expiring) = (socket.clone(), port.clone());
    tokio::spawn(async move { expiring.expire(&shared, partner).await });
    let mut answerer = Answerer {
        checks: checks.clone(),
        port,
        socket,
        authentication: probe::authentication(connection.secret.expose()),
        partner,
        source: None,
        trains: 0,
        permission,
        until: Instant::now() + Duration::from_secs(permission.seconds_max.into()),
    };
    say(connection, PathMessage::Permitted(permission)).await?;
    //= P-5
    //# The responder ends the check when the permitted time is up, plus at most 5 s to finish the
    //# last step; when it has received neither a message nor a probe for 10 s; or immediately when
    //# the connection is closed.
    for _ in 0..STEPS_MAX {
        let left = answerer.until.saturating_duration_since(Instant::now());
        match timeout(left.min(SILENCE_MAX), connection.reader.next()).await {
            Ok(Ok(Message::Path(PathMessage::Step(step)))) => {
                let report = timeout(left + MARGIN, answerer.step(connection, step)).await;
                say(connection, PathMessage::Report(report.map_err(|_| EarlyEnd::Overdue)??)).await?;
            }
            Ok(Ok(Message::Path(PathMessage::End))) => {
                count(&checks.counters.answered);
                return Ok(());
            }
            Ok(Err(_)) => return Err(EarlyEnd::Gone),
            Ok(Ok(_)) => return Err(broken("a step of a path check was expected")),
            Err(_) if left > SILENCE_MAX => return Err(EarlyEnd::Silent),
            Err(_) => return Err(EarlyEnd::Overdue),
        }
    }
    Err(broken("a path check has too many steps"))
}

/// The socket for a check's probes, and what the partner may do.
fn permit(
    engine: &Engine,
    service: &PathService,
    connection: &Connection,
    request: &PathRequest,
) -> Result<(Arc<ProbeSocket>, PathPermission), Refusal> {
    let settings = service.settings().path;
    let failed = |error: std::io::Error| {
        os_error::refusal(os_error::errno_or_io(&error), format!("this node cannot probe: {error}"))
    };
    let local = connection.local_address.ip().to_canonical();
    let socket = ProbeSocket::bind_shared(SocketAddr::new(local, service.port()))
        .or_else(|_| ProbeSocket::bind(SocketAddr::new(local, 0)))
        .map_err(failed)?;
    let _ = socket.ask_buffers(probe::SOCKET_BUFFER_BYTES);
    socket.probe_mtu().and_then(|()| socket.keep_errors()).map_err(failed)?;
    let permission = PathPermission {
        udp_port: socket.local_address().map_err(failed)?.port(),
        seconds_max: settings.seconds_max().min(request.seconds_max),
        //= P-6
        //# Trains of both sides keep to the lower of the two permitted rates.
        rate_bits_per_second_max: settings.rate_bits_per_second_max().min(request.rate_bits_per_second_max),
        datagram_bytes_max: engine.datagram_bytes_towards(connection.address),
    };
    Ok((Arc::new(socket), permission))
}

fn broken(text: &str) -> EarlyEnd {
    EarlyEnd::Refused(Refusal::new(RefusalCode::Protocol, text))
}

async fn say(connection: &Connection, message: PathMessage) -> Result<(), EarlyEnd> {
    // A partner that does not read counts as silent.
    match timeout(SILENCE_MAX, connection.writer.send(Message::Path(message))).await {
        Ok(sent) => sent.map_err(|_| EarlyEnd::Gone),
        Err(_) => Err(EarlyEnd::Silent),
    }
}

/// Does work that the partner waits for. Ends early if the partner closes the connection, or sends
/// a message instead of waiting.
async fn unless_gone<T>(reader: &mut MessageReader, work: impl Future<Output = T>) -> Result<T, EarlyEnd> {
    tokio::select! {
        done = work => Ok(done),
        message = reader.next() => Err(match message {
            Ok(_) => broken("no message is allowed during a step of a path check"),
            Err(_) => EarlyEnd::Gone,
        }),
    }
}

struct Answerer {
    checks: Arc<SlotPool>,
    port: Arc<Port>,
    socket: Arc<ProbeSocket>,
    authentication: Authentication,
    partner: IpAddr,
    /// The address that the first authentic probe came from; none before.
    source: Option<SocketAddr>,
    trains: u32,
    permission: PathPermission,
    until: Instant,
}

impl Answerer {
    async fn step(&mut self, connection: &mut Connection, step: PathStep) -> Result<PathReport, EarlyEnd> {
        match step.kind {
            StepKind::Reflect(reply) => self.reflect(connection, step.number, reply).await,
            StepKind::TakeTrain => self.take_train(connection, step.number).await,
            StepKind::SendTrain(train) => self.send_train(connection, step.number, train).await,
            StepKind::Trace(kind) => self.trace(connection, step.number, kind).await,
        }
    }

    async fn reflect(
        &mut self,
        connection: &mut Connection,
        number: u16,
        reply: ReplySize,
    ) -> Result<PathReport, EarlyEnd> {
        //= P-3
        //# The responder answers only the peer address of the control connection, at no more than
        //# 50,000 packets a second and no more than the permitted rate.
        let plan = reflect::ReflectPlan {
            number,
            reply,
            partner: self.partner,
            packets_per_second_max: ECHOES_PER_SECOND_MAX,
            bits_per_second_max: self.permission.rate_bits_per_second_max,
            own_port: Some(self.permission.udp_port),
            until: self.until,
        };
        let stop = Stop::default();
        let heard = Arc::new(AtomicU64::new(0));
        let (socket, authentication, stopped) = (self.socket.clone(), self.authentication.clone(), stop.clone());
        let (port, hearing, mut is_settled) = (self.port.clone(), heard.clone(), self.source.is_some());
        let work = probing(move || {
            reflect::run(&socket, &authentication, &plan, &stopped, |source| {
                hearing.fetch_add(1, Ordering::Relaxed);
                if !is_settled {
                    is_settled = true;
                    port.settle(&socket, source);
                }
            })
        });
        match until_done(connection, work, &stop, &heard).await? {
            Ok(seen) => {
                self.checks.counters.suppressed_probes.fetch_add(seen.suppressed, Ordering::Relaxed);
                self.source = self.source.or(seen.source);
                Ok(seen.report)
            }
            Err(error) => Ok(PathReport::Failed(error.to_string())),
        }
    }

    async fn take_train(&mut self, connection: &mut Connection, number: u16) -> Result<PathReport, EarlyEnd> {
        if let Some(refused) = self.count_train() {
            // The partner waits for Ready before it sends the train, and sends Done after it.
            say(connection, PathMessage::Ready).await?;
            let done = timeout(TRAIN_STEP_MAX, connection.reader.next()).await.map_err(|_| EarlyEnd::Overdue)?;
            return if matches!(done, Ok(Message::Path(PathMessage::Done))) {
                Ok(refused)
            } else {
                Err(EarlyEnd::Gone)
            };
        }
        let turn = unless_gone(&mut connection.reader, self.checks.path()).await?;
        let stop = Stop::default();
        let (socket, authentication, stopped) = (self.socket.clone(), self.authentication.clone(), stop.clone());
        //= P-5
        //# A step with a train takes at most 10 s.
        let until = self.until.min(Instant::now() + TRAIN_STEP_MAX);
        let work = probing(move || train::receive(&socket, &authentication, number, until, &stopped));
        // The partner decides when the train's packets arrive; only the step's time limits it.
        let heard = AtomicU64::new(0);
        let step = until_done(connection, work, &stop, &heard);
        //= P-8
        //# Trains of different checks take turns of at most 3 s.
        let turn_ends = async {
            sleep(TRAIN_TURN).await;
            drop(turn);
            std::future::pending::<()>().await;
        };
        let received = tokio::select! {
            received = timeout(TRAIN_STEP_MAX, step) => received.map_err(|_| EarlyEnd::Overdue)??,
            () = turn_ends => return Err(EarlyEnd::Overdue),
        };
        Ok(received.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::TrainReceived))
    }

    async fn send_train(
        &mut self,
        connection: &mut Connection,
        number: u16,
        train: Train,
    ) -> Result<PathReport, EarlyEnd> {
        if let Some(refused) = self.count_train() {
            return Ok(refused);
        }
        //= P-4
        //# The responder sends trains and traces only to an address that an authentic probe came
        //# from, no faster than it permits and for at most one second each. Trains below 100 kb/s
        //# are refused.
        if self.source.is_none() {
            let text = "no probe of the partner has arrived, so none can be sent back";
            return Ok(PathReport::Failed(text.to_owned()));
        }
        let train = Train {
            rate_bits_per_second: train.rate_bits_per_second.min(self.permission.rate_bits_per_second_max),
            duration_us: train.duration_us.min(TRAIN_US_MAX),
            packet_bytes: train.packet_bytes.min(self.permission.datagram_bytes_max),
        };
        if train.rate_bits_per_second < train::RATE_MIN {
            return Ok(PathReport::Failed(format!(
                "a train of {} b/s is too slow to measure anything: ask for {} b/s or more",
                train.rate_bits_per_second,
                train::RATE_MIN
            )));
        }
        // Invariant I-path-train: A train that this node sends to a partner is no faster than it
        // permits, and no longer than a second.
        assert!(
            train.rate_bits_per_second <= self.permission.rate_bits_per_second_max && train.duration_us <= TRAIN_US_MAX,
            "a train exceeds what this node permits: {train:?}"
        );
        let _turn = unless_gone(&mut connection.reader, self.checks.path()).await?;
        let stop = Stop::default();
        let _over = stop.on_drop();
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        let sending = probing(move || train::send(&socket, &authentication, number, &train, &stop));
        let sent = unless_gone(&mut connection.reader, sending).await?;
        Ok(sent.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::TrainSent))
    }

    /// Counts a train. Returns the message for the partner if it has had too many.
    fn count_train(&mut self) -> Option<PathReport> {
        //= P-4
        //# No train takes longer than 5 s, and a check has at most 64 trains.
        self.trains += 1;
        let is_one_too_many = self.trains > TRAINS_MAX;
        is_one_too_many.then(|| PathReport::Failed(format!("a path check has at most {TRAINS_MAX} trains")))
    }

    async fn trace(
        &mut self,
        connection: &mut Connection,
        number: u16,
        kind: TraceKind,
    ) -> Result<PathReport, EarlyEnd> {
        let stop = Stop::default();
        let _over = stop.on_drop();
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        let (partner, source) = (self.partner, self.source);
        let tracing = probing(move || match (kind, source) {
            (TraceKind::Icmp, _) => trace::icmp(partner, TRACE_WAIT, &stop),
            (TraceKind::Udp, Some(source)) => trace::udp(&socket, &authentication, number, source, TRACE_WAIT, &stop),
            (TraceKind::Udp, None) => Err(std::io::Error::other("no probe of the partner has arrived")),
        });
        let route = unless_gone(&mut connection.reader, tracing).await?;
        Ok(route.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::Route))
    }
}

/// Sends Ready, works until the partner sends Done, and returns the work's result. `heard` counts
/// the packets that the work receives from the partner.
async fn until_done<T>(
    connection: &mut Connection,
    work: impl Future<Output = T>,
    stop: &Stop,
    heard: &AtomicU64,
) -> Result<T, EarlyEnd> {
    let _over = stop.on_drop();
    say(connection, PathMessage::Ready).await?;
    let mut work = std::pin::pin!(work);
    let mut early = None;
    let done = tokio::select! {
        message = connection.reader.next() => message,
        () = silence(heard) => return Err(EarlyEnd::Silent),
        worked = &mut work => {
            // The time is up, or the socket failed: the partner learns it from the report.
            early = Some(worked);
            timeout(MARGIN, connection.reader.next()).await.map_err(|_| EarlyEnd::Overdue)?
        }
    };
    stop.stop();
    match done {
        Ok(Message::Path(PathMessage::Done)) => {}
        Ok(_) => return Err(broken("the end of a path check's step was expected")),
        Err(_) => return Err(EarlyEnd::Gone),
    }
    Ok(match early {
        Some(worked) => worked,
        None => work.await,
    })
}

/// Returns when `heard` has not grown for [`SILENCE_MAX`].
async fn silence(heard: &AtomicU64) {
    let (mut before, mut since) = (0, tokio::time::Instant::now());
    while since.elapsed() < SILENCE_MAX {
        sleep(SILENCE_CHECK).await;
        let now = heard.load(Ordering::Relaxed);
        if now != before {
            (before, since) = (now, tokio::time::Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_is_silent_when_nothing_was_received_for_ten_seconds() {
        //= P-5
        //# The responder ends the check when the permitted time is up, plus at most 5 s to finish
        //# the last step; when it has received neither a message nor a probe for 10 s; or
        //# immediately when the connection is closed.
        let heard = AtomicU64::new(0);
        let began = tokio::time::Instant::now();
        let probes = async {
            for _ in 0..3 {
                sleep(Duration::from_secs(9)).await;
                heard.fetch_add(1, Ordering::Relaxed);
            }
        };
        tokio::join!(silence(&heard), probes);
        let waited = began.elapsed();
        assert!((37.0..=38.0).contains(&waited.as_secs_f64()), "27 s with probes and 10 s without, not {waited:?}");
    }
}
