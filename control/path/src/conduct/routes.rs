//! Traces the routes of both directions, with UDP and with ICMP.

use std::time::Duration;

use culvert_perfsonar::probe::{Stop, echo, reflect, trace};
use culvert_protocol::path::{PathReport, ReplySize, Route, StepKind, TraceKind};
use culvert_system::os_error::without_numbers;

use crate::check::Side;
use crate::conduct::Conductor;
use crate::probing::probing;

/// How often a sign of life is sent while the responder sees nothing of what this side does.
//= P-9
//# While the initiator is busy with something the responder does not see (a trace, sizes that do
//# not pass), it sends an authentic probe every 2 s, numbered 4294967295.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// The shortest time to wait for a hop's answer.
const HOP_WAIT: Duration = Duration::from_millis(500);

impl Conductor<'_> {
    pub(super) async fn routes(&mut self, side: Side) -> Result<(), String> {
        (self.tell)(if side == Side::Send { "route to the partner" } else { "route from the partner" });
        for kind in [TraceKind::Udp, TraceKind::Icmp] {
            let route = match side {
                Side::Send => self.route_out(kind).await?,
                Side::Receive => self.route_back(kind).await?,
            };
            match route {
                Ok(route) if kind == TraceKind::Udp => self.check.side_mut(side).route_udp = Some(route),
                Ok(route) => self.check.side_mut(side).route_icmp = Some(route),
                // ICMP needs a permission that many hosts do not give. The UDP route suffices.
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

    async fn route_back(&mut self, kind: TraceKind) -> Result<Result<Route, String>, String> {
        let stop = Stop::default();
        // The partner's probes carry the number of the step that is about to begin. Reflection must
        // run before the partner is asked to trace.
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

    /// Does work that the partner does not see, and meanwhile sends signs of life.
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
}

/// The reason why there is no ICMP route, with the remedy if a permission is missing.
fn with_remedy(side: Side, why: &str) -> String {
    let why = without_numbers(why);
    // The partner reports EPERM and EACCES only in words.
    if !why.contains("Operation not permitted") && !why.contains("Permission denied") {
        return why;
    }
    let host = if side == Side::Send { "this host" } else { "the partner's host" };
    format!("{why}; on {host} the group of Culvert's account must be within net.ipv4.ping_group_range")
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
