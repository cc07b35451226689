//! The answering end of a check: permits it within this node's limits, and does what each step asks for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_perfsonar::probe::{self, Stop, reflect, trace, train};
use culvert_perfsonar::socket::ProbeSocket;
use culvert_perfsonar::stamp::Authentication;
use culvert_protocol::control::{Message, Refusal, RefusalCode};
use culvert_protocol::path::{
    PathMessage, PathPermission, PathReport, PathRequest, PathStep, StepKind, TraceKind, Train,
};

use crate::connection::{Connection, ConnectionError};
use crate::node::Node;
use crate::transfer::blocking;

/// Steps of a check at most.
const STEPS_MAX: u32 = 1_000;
/// The longest train.
pub const TRAIN_US_MAX: u32 = 1_000_000;
/// Echoes in a second that are answered at most.
pub const ECHOES_PER_SECOND_MAX: u32 = 50_000;
/// How long a probe of a trace waits.
const TRACE_WAIT: Duration = Duration::from_millis(500);

/// Answers a partner's check.
pub(crate) async fn answer(node: &Arc<Node>, mut connection: Connection, request: PathRequest, partner: &str) {
    let (writer, farewell) = (connection.writer.clone(), connection.farewell());
    let refused = match node.path.place.clone().try_acquire_owned() {
        Ok(_place) => conduct(node, &mut connection, request, partner).await.err(),
        Err(_) => Some(Refusal::new(
            RefusalCode::Temporary,
            "this node answers another path check at present: come again in a minute",
        )),
    };
    drop(connection);
    if let Some(refusal) = refused {
        let _ = writer.send(Message::Refused(refusal)).await;
    }
    drop(writer);
    farewell.wait().await;
}

async fn conduct(node: &Node, connection: &mut Connection, request: PathRequest, partner: &str) -> Result<(), Refusal> {
    let settings = node.path.settings().path;
    if settings.answer == Some(false) || settings.refuse.iter().any(|refused| refused == partner) {
        let text = format!(
            "'{}' does not permit path checks to this partner: its admin can permit them in the table [path] of culvert.toml",
            node.name
        );
        return Err(Refusal::new(RefusalCode::NotPermitted, text));
    }
    let failed = |error: std::io::Error| Refusal::new(RefusalCode::Failed, format!("this node cannot probe: {error}"));
    let local = connection.local_address.ip().to_canonical();
    let socket = ProbeSocket::bind(SocketAddr::new(local, node.path.port()))
        .or_else(|_| ProbeSocket::bind(SocketAddr::new(local, 0)))
        .map_err(failed)?;
    let _ = socket.ask_buffers(probe::SOCKET_BUFFER_BYTES);
    socket.probe_mtu().and_then(|()| socket.keep_errors()).map_err(failed)?;
    let permission = PathPermission {
        udp_port: socket.local_address().map_err(failed)?.port(),
        seconds_max: settings.seconds_max().min(request.seconds_max),
        rate_bits_per_second_max: settings.rate_bits_per_second_max().min(request.rate_bits_per_second_max),
        datagram_bytes_max: node.datagram_bytes_towards(connection.address),
    };
    let mut answerer = Answerer {
        socket: Arc::new(socket),
        authentication: probe::authentication(connection.secret.expose()),
        partner: connection.address.ip().to_canonical(),
        source: None,
        permission,
        until: Instant::now() + Duration::from_secs(permission.seconds_max.into()),
    };
    let cut = || Refusal::new(RefusalCode::Temporary, "the connection is cut");
    connection.writer.send(Message::Path(PathMessage::Permitted(permission))).await.map_err(|_| cut())?;
    for _ in 0..STEPS_MAX {
        let left = answerer.until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, connection.reader.next()).await {
            Ok(Ok(Message::Path(PathMessage::Step(step)))) => {
                let Some(report) = answerer.step(connection, step).await.map_err(|_| cut())? else { return Ok(()) };
                connection.writer.send(Message::Path(PathMessage::Report(report))).await.map_err(|_| cut())?;
            }
            Ok(Ok(Message::Path(PathMessage::End)) | Err(_)) => return Ok(()),
            Ok(Ok(_)) => return Err(Refusal::new(RefusalCode::Protocol, "a step of a path check was expected")),
            Err(_) => {
                return Err(Refusal::new(
                    RefusalCode::Temporary,
                    format!("the check takes longer than the {} s that this node permits", permission.seconds_max),
                ));
            }
        }
    }
    Err(Refusal::new(RefusalCode::Protocol, "a path check has too many steps"))
}

struct Answerer {
    socket: Arc<ProbeSocket>,
    authentication: Authentication,
    partner: IpAddr,
    /// Where the partner's probes come from, once they have come.
    source: Option<SocketAddr>,
    permission: PathPermission,
    until: Instant,
}

impl Answerer {
    /// Does a step; none if the partner is gone.
    async fn step(
        &mut self,
        connection: &mut Connection,
        step: PathStep,
    ) -> Result<Option<PathReport>, ConnectionError> {
        let stop = Stop::default();
        let (socket, authentication, stopped) = (self.socket.clone(), self.authentication.clone(), stop.clone());
        let (number, until) = (step.number, self.until);
        match step.kind {
            StepKind::Reflect(reply) => {
                let plan = reflect::ReflectPlan {
                    number,
                    reply,
                    partner: self.partner,
                    packets_per_second_max: ECHOES_PER_SECOND_MAX,
                    until,
                };
                let work = blocking(move || reflect::run(&socket, &authentication, &plan, &stopped));
                let Some(done) = until_done(connection, work, &stop).await? else { return Ok(None) };
                Ok(Some(match done {
                    Ok((report, source)) => {
                        self.learn(source);
                        report
                    }
                    Err(error) => PathReport::Failed(error.to_string()),
                }))
            }
            StepKind::TakeTrain => {
                let work = blocking(move || train::receive(&socket, &authentication, number, until, &stopped));
                let Some(done) = until_done(connection, work, &stop).await? else { return Ok(None) };
                Ok(Some(done.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::TrainReceived)))
            }
            StepKind::SendTrain(train) => {
                if self.source.is_none() {
                    return Ok(Some(PathReport::Failed(
                        "no probe of the partner has arrived, so none can be sent back".to_owned(),
                    )));
                }
                let train = Train {
                    rate_bits_per_second: train.rate_bits_per_second.min(self.permission.rate_bits_per_second_max),
                    duration_us: train.duration_us.min(TRAIN_US_MAX),
                    packet_bytes: train.packet_bytes.min(self.permission.datagram_bytes_max),
                };
                let sent = blocking(move || train::send(&socket, &authentication, number, &train, &stopped)).await;
                Ok(Some(sent.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::TrainSent)))
            }
            StepKind::Trace(kind) => {
                let (partner, source) = (self.partner, self.source);
                let route = blocking(move || match (kind, source) {
                    (TraceKind::Icmp, _) => trace::icmp(partner, TRACE_WAIT, &stopped),
                    (TraceKind::Udp, Some(source)) => {
                        trace::udp(&socket, &authentication, number, source, TRACE_WAIT, &stopped)
                    }
                    (TraceKind::Udp, None) => Err(std::io::Error::other("no probe of the partner has arrived")),
                });
                Ok(Some(route.await.map_or_else(|error| PathReport::Failed(error.to_string()), PathReport::Route)))
            }
        }
    }

    fn learn(&mut self, source: Option<SocketAddr>) {
        if let Some(source) = source
            && self.source != Some(source)
            && self.socket.connect(source).is_ok()
        {
            self.source = Some(source);
        }
    }
}

/// Says that this side is ready, works until the partner says that it is done, and returns what came of it; none if the partner
/// is gone.
async fn until_done<T>(
    connection: &mut Connection,
    work: impl Future<Output = T>,
    stop: &Stop,
) -> Result<Option<T>, ConnectionError> {
    let mut work = std::pin::pin!(work);
    // If the partner is gone the reader says so.
    let _ = connection.writer.send(Message::Path(PathMessage::Ready)).await;
    let is_done = tokio::select! {
        message = connection.reader.next() => matches!(message, Ok(Message::Path(PathMessage::Done))),
        worked = &mut work => {
            // The time is up, or the socket failed: the partner learns it when it is done.
            let message = connection.reader.next().await;
            return Ok(matches!(message, Ok(Message::Path(PathMessage::Done))).then_some(worked));
        }
    };
    stop.stop();
    let worked = work.await;
    Ok(is_done.then_some(worked))
}
