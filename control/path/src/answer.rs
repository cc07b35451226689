//! The answering end of a check: permits it within this node's limits, and does what each step asks
//! for.
//!
//! A partner keeps its place as long as something is heard of it, and not beyond the time that it
//! was permitted.

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

/// Steps of a check at most.
const STEPS_MAX: u32 = 1_000;
/// Trains of a check at most: two ramps of 24 and two for buffers are 50.
const TRAINS_MAX: u32 = 64;
/// The longest train.
pub const TRAIN_US_MAX: u32 = 1_000_000;
/// Echoes in a second that are answered at most.
pub const ECHOES_PER_SECOND_MAX: u32 = 50_000;
/// How long a probe of a trace waits.
const TRACE_WAIT: Duration = Duration::from_millis(500);
/// How long a partner may say nothing, neither here nor by a probe. The slowest search of an MTU is
/// silent for six seconds.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether probes have come.
const LOOK: Duration = Duration::from_millis(500);
/// How long a step with a train may take: the train, its tail, and messages on a slow path.
const TRAIN_STEP_MAX: Duration = Duration::from_secs(10);
/// How much longer than permitted a check may take: its last step's messages are in flight.
const MARGIN: Duration = Duration::from_secs(5);

/// Why a check ends before its end.
enum Ended {
    /// The partner is gone.
    Gone,
    /// It says nothing any more.
    Silent,
    /// Its time is up, or a step's.
    Overdue,
    /// It receives this.
    Refused(Refusal),
}

/// Answers a partner's check.
pub async fn answer(
    engine: &Engine,
    room: &PathService,
    mut connection: Connection,
    request: PathRequest,
    partner: &str,
) {
    let (writer, farewell) = (connection.writer.clone(), connection.pending_close());
    let counters = &room.checks.counters;
    let refused = match may_ask(engine, room, partner).and_then(|()| room.checks.take(connection.partner)) {
        Ok(_place) => {
            conduct(engine, room, &mut connection, request).await.err().and_then(|ended| note(room, ended, &request))
        }
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
    farewell.wait().await;
}

/// Counts how a check ended; the message for the partner.
fn note(room: &PathService, ended: Ended, request: &PathRequest) -> Option<Refusal> {
    let counters = &room.checks.counters;
    let temporary = |text: String| Some(Refusal::new(RefusalCode::Temporary, text));
    match ended {
        Ended::Gone => {
            count(&counters.broken);
            None
        }
        Ended::Silent => {
            count(&counters.silent);
            temporary(format!(
                "the path check has ended: nothing was received from this partner for {} s",
                SILENCE_MAX.as_secs()
            ))
        }
        Ended::Overdue => {
            count(&counters.overdue);
            let seconds = room.settings().path.seconds_max().min(request.seconds_max);
            temporary(format!(
                "the check takes longer than the {seconds} s that this node permits, or a train longer than {} s",
                TRAIN_STEP_MAX.as_secs()
            ))
        }
        Ended::Refused(refusal) => {
            count(if refusal.code == RefusalCode::Temporary { &counters.busy } else { &counters.broken });
            Some(refusal)
        }
    }
}

fn may_ask(engine: &Engine, room: &PathService, partner: &str) -> Result<(), Refusal> {
    let settings = room.settings().path;
    if settings.answer == Some(false) || settings.refuse.iter().any(|refused| refused == partner) {
        let text = format!(
            "'{}' does not permit path checks to this partner: its admin can permit them in the table [path] of culvert.toml",
            engine.name
        );
        return Err(Refusal::new(RefusalCode::NotPermitted, text));
    }
    Ok(())
}

async fn conduct(
    engine: &Engine,
    room: &PathService,
    connection: &mut Connection,
    request: PathRequest,
) -> Result<(), Ended> {
    let checks = &room.checks;
    let port = Arc::new(unless_gone(&mut connection.reader, checks.port()).await?.map_err(Ended::Refused)?);
    let (socket, permission) = permit(engine, room, connection, &request).map_err(Ended::Refused)?;
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
    for _ in 0..STEPS_MAX {
        let left = answerer.until.saturating_duration_since(Instant::now());
        match timeout(left.min(SILENCE_MAX), connection.reader.next()).await {
            Ok(Ok(Message::Path(PathMessage::Step(step)))) => {
                let report = timeout(left + MARGIN, answerer.step(connection, step)).await;
                say(connection, PathMessage::Report(report.map_err(|_| Ended::Overdue)??)).await?;
            }
            Ok(Ok(Message::Path(PathMessage::End))) => {
                count(&checks.counters.answered);
                return Ok(());
            }
            Ok(Err(_)) => return Err(Ended::Gone),
            Ok(Ok(_)) => return Err(broken("a step of a path check was expected")),
            Err(_) if left > SILENCE_MAX => return Err(Ended::Silent),
            Err(_) => return Err(Ended::Overdue),
        }
    }
    Err(broken("a path check has too many steps"))
}

/// The socket for a check's probes, and what the partner may do.
fn permit(
    engine: &Engine,
    room: &PathService,
    connection: &Connection,
    request: &PathRequest,
) -> Result<(Arc<ProbeSocket>, PathPermission), Refusal> {
    let settings = room.settings().path;
    let failed = |error: std::io::Error| {
        os_error::refusal(os_error::errno_or_io(&error), format!("this node cannot probe: {error}"))
    };
    let local = connection.local_address.ip().to_canonical();
    let socket = ProbeSocket::bind_shared(SocketAddr::new(local, room.port()))
        .or_else(|_| ProbeSocket::bind(SocketAddr::new(local, 0)))
        .map_err(failed)?;
    let _ = socket.ask_buffers(probe::SOCKET_BUFFER_BYTES);
    socket.probe_mtu().and_then(|()| socket.keep_errors()).map_err(failed)?;
    let permission = PathPermission {
        udp_port: socket.local_address().map_err(failed)?.port(),
        seconds_max: settings.seconds_max().min(request.seconds_max),
        rate_bits_per_second_max: settings.rate_bits_per_second_max().min(request.rate_bits_per_second_max),
        datagram_bytes_max: engine.datagram_bytes_towards(connection.address),
    };
    Ok((Arc::new(socket), permission))
}

fn broken(text: &str) -> Ended {
    Ended::Refused(Refusal::new(RefusalCode::Protocol, text))
}

async fn say(connection: &Connection, message: PathMessage) -> Result<(), Ended> {
    // A partner that reads nothing is as silent as one that says nothing.
    match timeout(SILENCE_MAX, connection.writer.send(Message::Path(message))).await {
        Ok(sent) => sent.map_err(|_| Ended::Gone),
        Err(_) => Err(Ended::Silent),
    }
}

/// Does what the partner waits for, unless it goes away meanwhile or does not wait.
async fn unless_gone<T>(reader: &mut MessageReader, work: impl Future<Output = T>) -> Result<T, Ended> {
    tokio::select! {
        done = work => Ok(done),
        message = reader.next() => Err(match message {
            Ok(_) => broken("no message is allowed during a step of a path check"),
            Err(_) => Ended::Gone,
        }),
    }
}

struct Answerer {
    checks: Arc<SlotPool>,
    port: Arc<Port>,
    socket: Arc<ProbeSocket>,
    authentication: Authentication,
    partner: IpAddr,
    /// Where the partner's probes come from, once they have come.
    source: Option<SocketAddr>,
    trains: u32,
    permission: PathPermission,
    until: Instant,
}

impl Answerer {
    async fn step(&mut self, connection: &mut Connection, step: PathStep) -> Result<PathReport, Ended> {
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
    ) -> Result<PathReport, Ended> {
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

    async fn take_train(&mut self, connection: &mut Connection, number: u16) -> Result<PathReport, Ended> {
        if let Some(refused) = self.another_train() {
            // The partner waits for the word to send it, and says when it is sent.
            say(connection, PathMessage::Ready).await?;
            let done = timeout(TRAIN_STEP_MAX, connection.reader.next()).await.map_err(|_| Ended::Overdue)?;
            return if matches!(done, Ok(Message::Path(PathMessage::Done))) { Ok(refused) } else { Err(Ended::Gone) };
        }
        let turn = unless_gone(&mut connection.reader, self.checks.path()).await?;
        let stop = Stop::default();
        let (socket, authentication, stopped) = (self.socket.clone(), self.authentication.clone(), stop.clone());
        let until = self.until.min(Instant::now() + TRAIN_STEP_MAX);
        let work = probing(move || train::receive(&socket, &authentication, number, until, &stopped));
        // The sender decides what arrives when; only the step's time limits it.
        let heard = AtomicU64::new(0);
        let step = until_done(connection, work, &stop, &heard);
        let turn_ends = async {
            sleep(TRAIN_TURN).await;
            drop(turn);
            std::future::pending::<()>().await;
        };
        let received = tokio::select! {
            received = timeout(TRAIN_STEP_MAX, step) => received.map_err(|_| Ended::Overdue)??,
            () = turn_ends => return Err(Ended::Overdue),
        };
        Ok(received.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::TrainReceived))
    }

    async fn send_train(
        &mut self,
        connection: &mut Connection,
        number: u16,
        train: Train,
    ) -> Result<PathReport, Ended> {
        if let Some(refused) = self.another_train() {
            return Ok(refused);
        }
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
        let _turn = unless_gone(&mut connection.reader, self.checks.path()).await?;
        let stop = Stop::default();
        let _over = stop.on_drop();
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        let sending = probing(move || train::send(&socket, &authentication, number, &train, &stop));
        let sent = unless_gone(&mut connection.reader, sending).await?;
        Ok(sent.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::TrainSent))
    }

    /// Counts another train; the message for the partner if it has had too many.
    fn another_train(&mut self) -> Option<PathReport> {
        self.trains += 1;
        let has_all = self.trains > TRAINS_MAX;
        has_all.then(|| PathReport::Failed(format!("a path check has at most {TRAINS_MAX} trains")))
    }

    async fn trace(&mut self, connection: &mut Connection, number: u16, kind: TraceKind) -> Result<PathReport, Ended> {
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

/// Announces that this side is ready, works until the partner announces the end, and returns the
/// result. `heard` counts what the work receives from the partner.
async fn until_done<T>(
    connection: &mut Connection,
    work: impl Future<Output = T>,
    stop: &Stop,
    heard: &AtomicU64,
) -> Result<T, Ended> {
    let _over = stop.on_drop();
    say(connection, PathMessage::Ready).await?;
    let mut work = std::pin::pin!(work);
    let mut early = None;
    let done = tokio::select! {
        message = connection.reader.next() => message,
        () = silence(heard) => return Err(Ended::Silent),
        worked = &mut work => {
            // The time is up, or the socket failed: the partner learns it when it is done.
            early = Some(worked);
            timeout(MARGIN, connection.reader.next()).await.map_err(|_| Ended::Overdue)?
        }
    };
    stop.stop();
    match done {
        Ok(Message::Path(PathMessage::Done)) => {}
        Ok(_) => return Err(broken("the end of a path check's step was expected")),
        Err(_) => return Err(Ended::Gone),
    }
    Ok(match early {
        Some(worked) => worked,
        None => work.await,
    })
}

/// Ends when nothing was heard for too long.
async fn silence(heard: &AtomicU64) {
    let (mut before, mut since) = (0, tokio::time::Instant::now());
    while since.elapsed() < SILENCE_MAX {
        sleep(LOOK).await;
        let now = heard.load(Ordering::Relaxed);
        if now != before {
            (before, since) = (now, tokio::time::Instant::now());
        }
    }
}
