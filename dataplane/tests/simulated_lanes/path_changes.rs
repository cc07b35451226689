//! Addresses that change, and copies sent from elsewhere: data follows only proved addresses
//! (`docs/wire.md` W-49 … W-54).

use std::net::{IpAddr, SocketAddr};

use culvert_dataplane::datapath::sim::{SimForger, SimPath, SimRandom};

use super::{HERE, THERE, World, seeds};

const DELAY_NS: u64 = 5_000_000;
const CHUNKS: u32 = 120;
const RATE: u64 = 100_000_000;

fn path(random: &mut SimRandom) -> SimPath {
    let loss = random.below(3) as f64 * 0.01;
    SimPath { delay_ns: DELAY_NS, loss, ..SimPath::default() }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What went from the sender to an address.
fn sent_to(world: &World, to: SocketAddr) -> culvert_dataplane::datapath::sim::SimTraffic {
    world.network.traffic().get(&(address(HERE), to)).copied().unwrap_or_default()
}

/// No address that did not answer a challenge got data, or more than three times what came from it.
fn assert_unproved(world: &World, addresses: &[SocketAddr], seed: u64) {
    let traffic = world.network.traffic();
    //= W-52
    //# An address that has not answered is sent only challenges, with at most three times the bytes
    //# received from it in authentic datagrams.
    for &unproved in addresses {
        let sent = sent_to(world, unproved);
        let came = traffic.get(&(unproved, address(HERE))).copied().unwrap_or_default();
        assert_eq!(sent.data, 0, "seed {seed}: data went to {unproved}");
        assert!(sent.bytes <= 3 * came.bytes, "seed {seed}: {unproved} sent {came:?} and got {sent:?}");
    }
}

/// A translator gives the receiver another port, or the receiver has another address, again and
/// again. The control connection stays.
#[test]
fn a_receiver_that_is_elsewhere_is_followed_within_about_a_round_trip() {
    for seed in seeds(12) {
        let mut random = SimRandom::new(seed);
        let path = path(&mut random);
        let moves: Vec<SocketAddr> = (0..3u16)
            .map(|number| {
                let host = if random.below(2) == 0 { 2 } else { 3 + random.below(200) as u8 };
                SocketAddr::new(IpAddr::from([10, 0, 0, host]), 40_000 + number)
            })
            .collect();
        eprintln!("seed {seed}: to {moves:?}, {} lost", path.loss);
        let mut world = World::new(seed, path, CHUNKS, 8, RATE);
        let mut made = 0;
        // For each move: when it was, when the first datagram came from there, when the first data
        // went there.
        let mut times: Vec<(u64, Option<u64>, Option<u64>)> = Vec::new();
        world.transfer_while(CHUNKS, |world| {
            let now_ns = world.network.now_ns();
            if made < moves.len() && world.delivered.len() >= 20 * (made + 1) {
                world.network.rebind(address(THERE), moves[made]);
                times.push((now_ns, None, None));
                made += 1;
            }
            if let Some((_, came, followed)) = times.last_mut().filter(|(.., followed)| followed.is_none()) {
                let to = moves[made - 1];
                let has_come = world.network.traffic().contains_key(&(to, address(HERE)));
                *came = came.or(has_come.then_some(now_ns));
                *followed = (sent_to(world, to).data > 0).then_some(now_ns);
            }
        });
        world.close_and_check(CHUNKS);
        assert_eq!(made, moves.len(), "seed {seed}");
        for (at, (moved_ns, came, followed)) in times.into_iter().enumerate() {
            let (came, followed) = (came.unwrap(), followed.expect("the flow follows"));
            eprintln!(
                "seed {seed}: heard {} ms after the move, followed {} ms later",
                (came - moved_ns) / 1_000_000,
                (followed - came) / 1_000_000
            );
            //= W-51
            //# When the token returns in an authentic reply, from any address, the challenged
            //# address becomes the destination.
            // The datagram, the challenge, its answer; if the flow found the old path dark in
            // between, also the probes for the size.
            if path.loss == 0.0 {
                assert!(followed - came <= 6 * DELAY_NS, "seed {seed}: move {at} took {} ns", followed - came);
            }
        }
    }
}

/// Every datagram of the receiver's is copied from elsewhere, and the copy comes first.
#[test]
fn a_copy_that_is_faster_leads_data_nowhere() {
    for seed in seeds(12) {
        let mut random = SimRandom::new(seed);
        let path = path(&mut random);
        // A third party, and another port of the receiver's own host.
        let sources = vec![address("192.0.2.9:53"), address("10.0.0.2:5353")];
        eprintln!("seed {seed}: {} lost", path.loss);
        let mut world = World::new(seed, path, CHUNKS, 8, RATE);
        world.network.set_forger(Some(SimForger { to: address(HERE), sources: sources.clone(), copies: 1 }));
        world.transfer(CHUNKS);
        world.close_and_check(CHUNKS);
        //= W-50
        //# An authentic datagram of the reverse direction that is newer than all earlier ones and
        //# comes from another address or port (even of the control connection's peer) does not
        //# change the destination.
        assert_unproved(&world, &sources, seed);
        let challenged = sources.iter().filter(|&&source| sent_to(&world, source).datagrams > 0).count();
        assert!(challenged > 0, "seed {seed}: no copy was taken, so nothing was shown");
    }
}

/// Copies from thousands of addresses, while the receiver moves.
#[test]
fn a_flood_of_sources_leads_data_nowhere_and_stops_no_move() {
    for seed in seeds(8) {
        let mut random = SimRandom::new(seed);
        let path = path(&mut random);
        let sources: Vec<SocketAddr> = (0..5_000u32)
            .map(|number| {
                SocketAddr::new(IpAddr::from((0xc000_0200 + number).to_be_bytes()), random.below(65_535) as u16)
            })
            .collect();
        let elsewhere = address("10.0.0.2:50505");
        eprintln!("seed {seed}: {} lost", path.loss);
        let mut world = World::new(seed, path, CHUNKS, 8, RATE);
        world.network.set_forger(Some(SimForger { to: address(HERE), sources: sources.clone(), copies: 20 }));
        let mut has_moved = false;
        world.transfer_while(CHUNKS, |world| {
            if !has_moved && world.delivered.len() >= 30 {
                has_moved = true;
                world.network.set_forger(None);
                world.network.rebind(address(THERE), elsewhere);
            }
        });
        world.close_and_check(CHUNKS);
        assert_unproved(&world, &sources, seed);
        assert!(has_moved && sent_to(&world, elsewhere).data > 0, "seed {seed}");
    }
}
