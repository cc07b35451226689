//! Measures the available rate and the bottleneck's buffer of both directions, with trains.

use std::time::Duration;

use culvert_perfsonar::probe::ramp::Ramp;
use culvert_perfsonar::probe::{Stop, train};
use culvert_protocol::path::{PathReport, StepKind, Train, TrainReceived, TrainSent};

use crate::answer::TRAIN_US_MAX;
use crate::check::Side;
use crate::conduct::{Conductor, bounds};
use crate::probing::probing;

/// The length of the ramp's trains, in microseconds.
const TRAIN_US: u32 = 100_000;
/// The rate that fills the bottleneck's buffer, as a multiple of the bottleneck's rate.
const BUFFER_EXCESS: f64 = 1.5;

impl Conductor<'_> {
    pub(super) async fn rate(&mut self, side: Side, packet_bytes: u16) -> Result<(), String> {
        (self.tell)(if side == Side::Send {
            "available rate to the partner"
        } else {
            "available rate from the partner"
        });
        let mut ramp = Ramp::new(self.rate_max());
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

    pub(super) async fn buffer(&mut self, side: Side, packet_bytes: u16) -> Result<(), String> {
        (self.tell)(if side == Side::Send { "buffer to the partner" } else { "buffer from the partner" });
        let Some(bottleneck) = self.check.side(side).rate.and_then(|rate| rate.delivered_bits_per_second) else {
            self.problem(format!("the buffer in direction {} was not measured: the path was never overdriven, so its bottleneck is not known", side.word()));
            return Ok(());
        };
        let rate = bounds::whole(bottleneck as f64 * BUFFER_EXCESS).min(self.rate_max());
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

    /// One train; none if one end failed.
    async fn train(&mut self, side: Side, train: Train) -> Result<Option<(TrainSent, TrainReceived)>, String> {
        //= P-6
        //# Trains of both sides keep to the lower of the two permitted rates.
        // Invariant I-path-rate: A train that an initiator sends or asks for is no faster than both
        // ends permit.
        assert!(train.rate_bits_per_second <= self.rate_max(), "a train is faster than permitted: {train:?}");
        match side {
            Side::Send => self.train_out(train).await,
            Side::Receive => self.train_back(train).await,
        }
    }

    async fn train_out(&mut self, train: Train) -> Result<Option<(TrainSent, TrainReceived)>, String> {
        let (socket, authentication, stop) = (self.socket.clone(), self.authentication.clone(), self.stop.clone());
        let number = self.begin(StepKind::TakeTrain).await?;
        let sent = probing(move || train::send(&socket, &authentication, number, &train, &stop)).await;
        tokio::time::sleep(self.tail()).await;
        Ok(match (sent, self.done().await?) {
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
        })
    }

    async fn train_back(&mut self, train: Train) -> Result<Option<(TrainSent, TrainReceived)>, String> {
        let (socket, authentication) = (self.socket.clone(), self.authentication.clone());
        let stop = Stop::default();
        let (number, until) = (self.next_step()?, self.deadline);
        let stop_taking = stop.clone();
        let taking =
            tokio::spawn(probing(move || train::receive(&socket, &authentication, number, until, &stop_taking)));
        let report = match self.begin(StepKind::SendTrain(train)).await {
            Ok(_) => self.report().await,
            Err(why) => Err(why),
        };
        tokio::time::sleep(self.tail()).await;
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

    /// The highest rate of trains that both ends permit, in bits per second.
    fn rate_max(&self) -> u64 {
        self.plan.rate_bits_per_second_max.min(self.permission.rate_bits_per_second_max)
    }

    /// How long packets in flight may still arrive after a train has been sent.
    fn tail(&self) -> Duration {
        self.patience().saturating_add(Duration::from_millis(50))
    }
}
