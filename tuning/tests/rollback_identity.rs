//! Applying and rolling back restores a host: for every subset of rules, every crash of the
//! process, every torn write to the journal, and every setting that refuses a write.
//!
//! The hosts are fakes that behave like real drivers, made from the recorded facts. A crash is a
//! panic that unwinds out of the transaction; only the host's settings and the bytes on the disk
//! remain, as after `kill -9`.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_host::facts::Facts;
use culvert_host::fake::{Crash, FakeHost, Fault};
use culvert_host::setting::{Setting, Value};
use culvert_tuning::audit::Audit;
use culvert_tuning::persist;
use culvert_tuning::plan::{Plan, Selection};
use culvert_tuning::rules;
use culvert_tuning::site::Site;
use culvert_tuning::transaction::{
    ApplyOptions, Disk, Intent, State, Store, TransactionError, apply, confirm, recover, roll_back,
};
use proptest::prelude::*;

/// Files in memory that survive a crash; a write may tear.
#[derive(Clone, Debug, Default)]
struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    writes: Arc<Mutex<Writes>>,
}

#[derive(Debug, Default)]
struct Writes {
    done: usize,
    /// Crash at this write, after so many thousandths of its bytes.
    crash_at: Option<(usize, usize)>,
    /// Fail from this write on, as a full disk does.
    full_from: Option<usize>,
}

impl Disk for MemoryDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().unwrap().keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files.lock().unwrap().get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (number, crash_at, full_from) = {
            let mut writes = self.writes.lock().unwrap();
            writes.done += 1;
            (writes.done - 1, writes.crash_at, writes.full_from)
        };
        if full_from.is_some_and(|from| number >= from) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let torn = crash_at.filter(|(at, _)| *at == number).map(|(_, share)| bytes.len() * share / 1000);
        {
            let mut files = self.files.lock().unwrap();
            let file = files.entry(name.to_owned()).or_default();
            file.truncate(usize::try_from(offset).unwrap());
            file.extend_from_slice(&bytes[..torn.unwrap_or(bytes.len())]);
        }
        if torn.is_some() {
            std::panic::panic_any(Crash);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files.lock().unwrap().remove(name);
        Ok(())
    }

    fn place(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}

impl MemoryDisk {
    fn store(&self) -> Store {
        Store::on(Box::new(self.clone()))
    }

    /// The disk after a crash: the same bytes, without further faults.
    fn survivor(&self) -> Self {
        Self { files: self.files.clone(), writes: Arc::default() }
    }

    fn writes(&self) -> usize {
        self.writes.lock().unwrap().done
    }
}

fn facts(name: &str) -> Facts {
    Facts::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/facts/{name}.json"))).unwrap()
}

const HOSTS: [&str; 5] = ["dtn-10g-ixgbe", "dtn-100g-mlx5", "dtn-100g-ice", "dtn-400g-mlx5", "vm-virtio"];

/// A host without permission limits, with its facts.
fn host(name: &str) -> (Facts, FakeHost) {
    let facts = facts(name);
    let mut host = FakeHost::from_facts(&facts);
    host.heal();
    (facts, host)
}

/// A site with all rules on request enabled, and an MTU.
fn site(facts: &Facts) -> Site {
    let on_request: Vec<String> =
        rules::all().filter(|rule| rule.on_request).map(|rule| format!("\"{}\"", rule.id)).collect();
    let link = Audit::run(facts, &Site::default(), None).targets.data_links.first().cloned().unwrap();
    let mtu = if facts.link(&link).unwrap().mtu_bytes == 9000 { 4000 } else { 9000 };
    let text = format!(
        "enable = [{}]\npacing = \"qdisc\"\nstorage_bytes_per_second = 1000000000\n[links.{link}]\nmtu = {mtu}\n",
        on_request.join(", ")
    );
    Site::from_toml(&text, "site.toml").unwrap()
}

fn plan(facts: &Facts, host: &mut FakeHost, only: &[String]) -> Plan {
    let selection = Selection { only: only.to_vec(), ..Selection::default() };
    Plan::make(&Audit::run(facts, &site(facts), None), &selection, host)
}

fn intents(plan: &Plan, host: &mut FakeHost, persistent: bool) -> Vec<Intent> {
    let mut intents: Vec<Intent> = plan.changes.iter().map(Intent::from).collect();
    if persistent && !intents.is_empty() {
        let wanted = intents.iter().map(|intent| (intent.setting.clone(), intent.to.clone())).collect();
        intents.extend(persist::intents(&wanted, &["/usr/bin/culvert"], host).unwrap());
    }
    intents
}

fn options(confirm: bool) -> ApplyOptions {
    ApplyOptions {
        profile: "test".to_owned(),
        confirm_within: (!confirm).then(|| Duration::from_secs(60)),
        ..ApplyOptions::default()
    }
}

fn persistent(persistent: bool) -> ApplyOptions {
    ApplyOptions { persistent, ..options(false) }
}

fn settings(host: &FakeHost) -> BTreeMap<Setting, Value> {
    host.settings().clone()
}

/// The settings that differ, for messages.
fn difference(before: &BTreeMap<Setting, Value>, after: &BTreeMap<Setting, Value>) -> Vec<String> {
    let keys = before.keys().chain(after.keys());
    let mut lines: Vec<String> = keys
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| format!("{key}: {:?} became {:?}", before.get(key), after.get(key)))
        .collect();
    lines.dedup();
    lines
}

macro_rules! assert_same {
    ($before:expr, $host:expr) => {{
        let difference = difference($before, $host.settings());
        assert!(difference.is_empty(), "{difference:#?}");
    }};
}

fn no_guard(_: &str) -> Result<(), String> {
    Ok(())
}

/// Runs a closure and returns whether it crashed.
fn crashes(run: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => false,
        Err(panic) if panic.is::<Crash>() => true,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Simulated crashes are expected panics, so they print no backtrace.
fn quiet_crashes() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Crash>() {
                usual(info);
            }
        }));
    });
}

#[test]
fn applying_reaches_what_was_planned_and_rolling_back_undoes_it() {
    for name in HOSTS {
        let (facts, mut host) = host(name);
        let before = settings(&host);
        let plan = plan(&facts, &mut host, &[]);
        assert!(!plan.is_empty(), "{name}");
        let mut store = MemoryDisk::default().store();
        let wanted = intents(&plan, &mut host, true);
        let done = apply(&mut store, &mut host, wanted, &options(true), &mut no_guard).unwrap();
        assert_eq!(done.state, State::Held);
        for change in &plan.changes {
            let found = &host.settings()[&change.setting];
            assert!(change.setting.same(&change.to, found), "{name}: {} is {found}", change.setting);
        }
        roll_back(&mut store, &mut host, None, "the test asks").unwrap();
        assert_same!(&before, host);
    }
}

#[test]
fn applying_twice_changes_nothing_the_second_time() {
    for name in HOSTS {
        let (facts, mut host) = host(name);
        let mut store = MemoryDisk::default().store();
        let first = plan(&facts, &mut host, &[]);
        let wanted = intents(&first, &mut host, false);
        apply(&mut store, &mut host, wanted, &options(true), &mut no_guard).unwrap();
        let second = plan(&facts, &mut host, &[]);
        assert!(second.is_empty(), "{name}: {:#?}", second.changes);
    }
}

#[test]
fn every_crash_of_the_process_is_put_right_by_the_next_start() {
    quiet_crashes();
    for name in ["dtn-10g-ixgbe", "vm-virtio"] {
        let (facts, untouched) = host(name);
        let before = settings(&untouched);
        let mut measured = untouched.clone();
        let plan = plan(&facts, &mut measured, &[]);
        let wanted = intents(&plan, &mut measured, true);
        measured.crash_at(usize::MAX);
        let mut store = MemoryDisk::default().store();
        apply(&mut store, &mut measured, wanted.clone(), &options(false), &mut no_guard).unwrap();
        let (operations, mut crashed) = (measured.operations(), 0);
        // Each crash is followed by another one during the repair.
        for at in 0..operations {
            let mut host = untouched.clone();
            let disk = MemoryDisk::default();
            host.crash_at(at);
            crashed += usize::from(crashes(|| {
                let mut store = disk.store();
                let _ = apply(&mut store, &mut host, wanted.clone(), &options(false), &mut no_guard);
            }));
            host.crash_at(at / 2);
            crashes(|| {
                let _ = recover(&mut disk.survivor().store(), &mut host, &|_| false);
            });
            host.heal();
            recover(&mut disk.survivor().store(), &mut host, &|_| false).unwrap();
            assert_same!(&before, host);
            let left = disk.survivor().store().transactions().unwrap();
            assert!(left.iter().all(|transaction| transaction.state == State::RolledBack), "{name} at {at}");
        }
        assert_eq!(crashed, operations);
    }
}

#[test]
fn every_torn_write_to_the_journal_is_put_right_by_the_next_start() {
    quiet_crashes();
    let (facts, untouched) = host("vm-virtio");
    let before = settings(&untouched);
    let mut measured = untouched.clone();
    let plan = plan(&facts, &mut measured, &[]);
    let wanted = intents(&plan, &mut measured, true);
    let disk = MemoryDisk::default();
    apply(&mut disk.store(), &mut measured, wanted.clone(), &options(false), &mut no_guard).unwrap();
    for at in 0..disk.writes() {
        for share in [0, 1, 500, 999, 1000] {
            let mut host = untouched.clone();
            let disk = MemoryDisk::default();
            disk.writes.lock().unwrap().crash_at = Some((at, share));
            assert!(crashes(|| {
                let _ = apply(&mut disk.store(), &mut host, wanted.clone(), &options(false), &mut no_guard);
            }));
            recover(&mut disk.survivor().store(), &mut host, &|_| false).unwrap();
            assert_same!(&before, host);
        }
    }
}

#[test]
fn a_full_disk_leaves_the_host_as_it_was() {
    let (facts, untouched) = host("vm-virtio");
    let before = settings(&untouched);
    let mut measured = untouched.clone();
    let plan = plan(&facts, &mut measured, &[]);
    let wanted = intents(&plan, &mut measured, false);
    for from in 0..3 {
        let mut host = untouched.clone();
        let disk = MemoryDisk::default();
        disk.writes.lock().unwrap().full_from = Some(from);
        let error = apply(&mut disk.store(), &mut host, wanted.clone(), &options(false), &mut no_guard).unwrap_err();
        assert!(error.to_string().contains("memory/") || error.to_string().contains("no storage space"), "{error}");
        assert_same!(&before, host);
        recover(&mut disk.survivor().store(), &mut host, &|_| false).unwrap();
        assert_same!(&before, host);
    }
}

#[test]
fn a_setting_that_refuses_or_lies_undoes_the_others() {
    for name in ["dtn-10g-ixgbe", "dtn-100g-mlx5", "vm-virtio"] {
        let (facts, untouched) = host(name);
        let before = settings(&untouched);
        let mut measured = untouched.clone();
        let plan = plan(&facts, &mut measured, &[]);
        let wanted = intents(&plan, &mut measured, true);
        for change in &plan.changes {
            for fault in [Fault::Refused, Fault::Ignored] {
                let mut host = untouched.clone();
                host.fail(change.setting.clone(), fault);
                let disk = MemoryDisk::default();
                let result = apply(&mut disk.store(), &mut host, wanted.clone(), &options(false), &mut no_guard);
                let error = result.unwrap_err().to_string();
                assert!(error.contains(&change.setting.to_string()), "{error}");
                assert!(error.contains(&format!("--skip {}", change.rule)), "{error}");
                host.heal();
                let difference = difference(&before, host.settings());
                // A setting that refuses writes cannot be restored either, and may have been
                // disturbed before.
                let excused = |line: &String| line.starts_with(&change.setting.to_string());
                assert!(difference.iter().all(excused), "{name}, {}: {difference:#?}", change.setting);
                if !difference.is_empty() {
                    assert!(error.contains("except"), "{error}");
                }
            }
        }
    }
}

#[test]
fn a_link_that_vanishes_undoes_the_others() {
    let (facts, mut host) = host("dtn-10g-ixgbe");
    let before = settings(&host);
    let plan = plan(&facts, &mut host, &[]);
    let wanted = intents(&plan, &mut host, false);
    let disk = MemoryDisk::default();
    let mut gone = host.clone();
    gone.unplug("ens2f0");
    let error = apply(&mut disk.store(), &mut gone, wanted.clone(), &options(false), &mut no_guard).unwrap_err();
    assert!(matches!(error, TransactionError::Unreadable(_)), "{error}");
    assert!(error.to_string().contains("nothing was changed") && error.to_string().contains("ens2f0"), "{error}");

    // It vanishes after the snapshot, when the guard starts.
    let shared = std::cell::RefCell::new(host);
    let mut proxy = Unplugging { host: &shared };
    let mut unplug = |_: &str| {
        shared.borrow_mut().unplug("ens2f0");
        Ok(())
    };
    let error = apply(&mut disk.store(), &mut proxy, wanted, &options(false), &mut unplug).unwrap_err();
    assert!(error.to_string().contains("the host is as it was"), "{error}");
    let mut expected = before;
    expected.retain(|setting, _| setting.link() != Some("ens2f0"));
    assert_same!(&expected, shared.borrow());
}

/// A host whose link can disappear at any time.
struct Unplugging<'a> {
    host: &'a std::cell::RefCell<FakeHost>,
}

impl culvert_host::Host for Unplugging<'_> {
    fn read(&mut self, setting: &Setting) -> Result<Value, culvert_host::HostError> {
        self.host.borrow_mut().read(setting)
    }
    fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), culvert_host::HostError> {
        self.host.borrow_mut().write(setting, value)
    }
    fn may_write(&mut self, setting: &Setting) -> Result<(), culvert_host::HostError> {
        self.host.borrow_mut().may_write(setting)
    }
    fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, culvert_host::HostError> {
        self.host.borrow_mut().settings_of_link(link)
    }
    fn place(&self) -> culvert_host::Place {
        self.host.borrow().place()
    }
    fn now_boot_ms(&self) -> u64 {
        self.host.borrow().now_boot_ms()
    }
}

/// A host with changes that wait for confirmation.
fn pending(persist: bool) -> (FakeHost, BTreeMap<Setting, Value>, MemoryDisk) {
    let (facts, mut host) = host("vm-virtio");
    let before = settings(&host);
    let plan = plan(&facts, &mut host, &[]);
    let wanted = intents(&plan, &mut host, persist);
    let disk = MemoryDisk::default();
    let done = apply(&mut disk.store(), &mut host, wanted, &persistent(persist), &mut no_guard).unwrap();
    assert_eq!(done.state, State::Pending);
    (host, before, disk)
}

#[test]
fn what_is_not_confirmed_in_time_is_rolled_back() {
    let (mut host, before, disk) = pending(false);
    assert!(recover(&mut disk.store(), &mut host, &|_| true).unwrap().is_empty());
    host.wait(59_000);
    assert!(recover(&mut disk.store(), &mut host, &|_| true).unwrap().is_empty());
    host.wait(1_000);
    let recovered = recover(&mut disk.store(), &mut host, &|_| true).unwrap();
    assert!(recovered[0].text.contains("not confirmed in time"), "{recovered:?}");
    assert_same!(&before, host);
    let error = confirm(&mut disk.store(), &mut host).unwrap_err().to_string();
    assert!(error.contains("not confirmed in time"), "{error}");
}

#[test]
fn a_dead_guard_is_replaced_by_the_next_start() {
    let (mut host, before, disk) = pending(false);
    let recovered = recover(&mut disk.store(), &mut host, &|_| false).unwrap();
    assert!(recovered[0].text.contains("guard"), "{recovered:?}");
    assert_same!(&before, host);
}

#[test]
fn what_was_attended_ends_with_its_process() {
    let (facts, mut host) = host("vm-virtio");
    let before = settings(&host);
    let plan = plan(&facts, &mut host, &[]);
    let wanted = intents(&plan, &mut host, false);
    let disk = MemoryDisk::default();
    let options = ApplyOptions { attended: true, ..options(false) };
    apply(&mut disk.store(), &mut host, wanted, &options, &mut no_guard).unwrap();
    let recovered = recover(&mut disk.store(), &mut host, &|_| true).unwrap();
    assert!(recovered[0].text.contains("watched over it"), "{recovered:?}");
    assert_same!(&before, host);
}

#[test]
fn a_second_apply_has_to_wait() {
    let (mut host, _, disk) = pending(false);
    let error = apply(&mut disk.store(), &mut host, Vec::new(), &options(false), &mut no_guard).unwrap_err();
    assert!(matches!(error, TransactionError::Waiting { .. }) && error.to_string().contains("culvert tune confirm"));
}

#[test]
fn a_guard_that_does_not_start_prevents_everything() {
    let (facts, mut host) = host("vm-virtio");
    let before = settings(&host);
    let plan = plan(&facts, &mut host, &[]);
    let wanted = intents(&plan, &mut host, false);
    let disk = MemoryDisk::default();
    let mut fails = |_: &str| Err("no memory".to_owned());
    let error = apply(&mut disk.store(), &mut host, wanted, &options(false), &mut fails).unwrap_err();
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_same!(&before, host);
    assert!(recover(&mut disk.store(), &mut host, &|_| false).unwrap().is_empty());
}

#[test]
fn unconfirmed_changes_do_not_outlive_a_restart() {
    let (mut host, before, disk) = pending(true);
    assert!(host.settings().keys().all(Setting::ends_with_the_boot), "a file was written too early");
    // The restart itself resets the settings.
    let mut restarted = FakeHost::from_facts(&facts("vm-virtio"));
    restarted.heal();
    restarted.restart();
    std::mem::swap(&mut host, &mut restarted);
    let recovered = recover(&mut disk.store(), &mut host, &|_| false).unwrap();
    assert!(recovered[0].text.contains("restarted"), "{recovered:?}");
    assert_same!(&before, host);
}

#[test]
fn after_a_restart_only_what_is_ours_is_put_back() {
    let (mut host, before, disk) = pending(true);
    confirm(&mut disk.store(), &mut host).unwrap();
    assert!(host.settings().keys().any(|setting| !setting.ends_with_the_boot()));
    host.restart();
    // The files set some settings again at boot, and the admin has since changed another one.
    let changed = Setting::sysctl("vm.swappiness");
    host.put(changed.clone(), "33");
    assert!(recover(&mut disk.store(), &mut host, &|_| false).unwrap().is_empty());
    roll_back(&mut disk.store(), &mut host, None, "the test asks").unwrap();
    let mut expected = before;
    expected.insert(changed, Value::new("33"));
    // A setting that was only disturbed does not count as Culvert's; no such setting survives a
    // restart of this host.
    let difference = difference(&expected, host.settings());
    let only_disturbed =
        |line: &String| line.contains("coalescing") || line.contains("interrupt") || line.contains("_cpus");
    assert!(difference.iter().all(only_disturbed), "{difference:#?}");
}

#[test]
fn what_was_not_to_persist_ends_with_the_boot() {
    let (mut host, _, disk) = pending(false);
    confirm(&mut disk.store(), &mut host).unwrap();
    host.restart();
    assert!(recover(&mut disk.store(), &mut host, &|_| false).unwrap().is_empty());
    assert_eq!(disk.store().transactions().unwrap()[0].state, State::Ended);
    assert!(matches!(roll_back(&mut disk.store(), &mut host, None, "x"), Err(TransactionError::NothingToRollBack)));
}

#[test]
fn settings_of_another_namespace_are_not_touched() {
    let (mut host, _, disk) = pending(false);
    let here = settings(&host);
    host.enter_namespace("net:[4026532299]");
    let error = roll_back(&mut disk.store(), &mut host, None, "x").unwrap_err();
    assert!(matches!(error, TransactionError::WrongPlace { .. }) && error.to_string().contains("--forget"), "{error}");
    assert_same!(&here, host);
}

#[test]
fn the_newest_is_rolled_back_first() {
    let (facts, mut host) = host("vm-virtio");
    let before = settings(&host);
    let disk = MemoryDisk::default();
    let mut ids = Vec::new();
    for rule in ["net.socket_buffers", "memory.swappiness"] {
        let plan = plan(&facts, &mut host, &[rule.to_owned()]);
        let wanted = intents(&plan, &mut host, true);
        ids.push(apply(&mut disk.store(), &mut host, wanted, &options(true), &mut no_guard).unwrap().id);
    }
    let error = roll_back(&mut disk.store(), &mut host, Some(&ids[0]), "x").unwrap_err();
    assert!(matches!(error, TransactionError::NotNewest { .. }), "{error}");
    roll_back(&mut disk.store(), &mut host, Some(&ids[1]), "x").unwrap();
    roll_back(&mut disk.store(), &mut host, None, "x").unwrap();
    assert_same!(&before, host);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_subset_of_rules_and_any_crash_end_where_they_began(
        host_number in 0..HOSTS.len(),
        chosen in proptest::collection::vec(any::<bool>(), 80),
        persist: bool,
        crash_share in 0_usize..1100,
        second_share in 0_usize..1000,
        refusing in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        quiet_crashes();
        let (facts, untouched) = host(HOSTS[host_number]);
        let before = settings(&untouched);
        let only: Vec<String> =
            rules::all().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(rule, _)| rule.id.to_owned()).collect();
        let mut measured = untouched.clone();
        let plan = plan(&facts, &mut measured, &only);
        let wanted = intents(&plan, &mut measured, persist);
        measured.crash_at(usize::MAX);
        let disk = MemoryDisk::default();
        apply(&mut disk.store(), &mut measured, wanted.clone(), &options(true), &mut no_guard).unwrap();
        let operations = measured.operations();

        let mut host = untouched.clone();
        if let Some(refusing) = refusing.filter(|_| !plan.changes.is_empty()) {
            host.fail(refusing.get(&plan.changes).setting.clone(), Fault::Refused);
        }
        let disk = MemoryDisk::default();
        // Beyond 1000 there is no crash at all.
        host.crash_at(operations * crash_share / 1000);
        crashes(|| {
            let _ = apply(&mut disk.store(), &mut host, wanted, &options(true), &mut no_guard);
        });
        host.crash_at(operations * second_share / 1000);
        crashes(|| {
            let _ = recover(&mut disk.survivor().store(), &mut host, &|_| false);
        });
        host.heal();
        recover(&mut disk.survivor().store(), &mut host, &|_| false).unwrap();
        match roll_back(&mut disk.survivor().store(), &mut host, None, "the test asks") {
            Ok(_) | Err(TransactionError::NothingToRollBack) => {}
            Err(error) => panic!("{error}"),
        }
        let difference = difference(&before, host.settings());
        prop_assert!(difference.is_empty(), "{:#?}", difference);
    }
}
