//! PostgreSQL comes and goes as told, and its files with it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use culvert_portal_tests::ports::answers;
use culvert_portal_tests::postgres::Postgres;

use crate::{runs, until};

/// Set for the process that is killed by [`a_server_of_a_killed_process_ends`].
const HOLDS: &str = "CULVERT_TEST_HOLDS_POSTGRES";

#[test]
fn databases_are_fresh_and_reached_both_ways() {
    let Some(postgres) = Postgres::shared() else { return };
    let [one, two] = [postgres.new_database(), postgres.new_database()];
    postgres.psql_in(&one, "create table t (n int); insert into t values (1), (2)");
    assert_eq!(postgres.psql_in(&one, "select sum(n) from t"), "3");
    assert_eq!(postgres.psql_in(&two, "select count(*) from pg_tables where schemaname = 'public'"), "0");
    assert_eq!(postgres.psql_in(&postgres.socket_url(), "select inet_client_addr() is null"), "t");
    assert_eq!(postgres.psql_in(&postgres.url(), "select inet_client_addr() is null"), "f");
    let failed = postgres.try_psql(&one, "select * from missing");
    assert!(failed.code != 0 && failed.err.contains("missing"), "{failed:?}");
}

#[test]
fn a_server_is_taken_away_and_comes_back_with_what_was_committed() {
    let Some(postgres) = Postgres::start() else { return };
    let database = postgres.new_database();
    postgres.psql_in(&database, "create table t (n int); insert into t values (1)");
    let url = postgres.url();
    postgres.stop();
    assert!(!answers(postgres.address()));
    assert_ne!(postgres.try_psql(&url, "select 1").code, 0);
    postgres.restart();
    assert_eq!(postgres.psql_in(&database, "select n from t"), "1");
    postgres.psql_in(&database, "insert into t values (2)");
    postgres.kill();
    assert!(!answers(postgres.address()));
    postgres.restart();
    assert!(postgres.log().contains("automatic recovery in progress"), "{}", postgres.log());
    assert_eq!(postgres.psql_in(&database, "select sum(n) from t"), "3");
    let process_id = postgres.process_id().unwrap();
    let address = postgres.address();
    drop(postgres);
    assert!(!runs(process_id) && !answers(address));
}

#[test]
fn a_server_of_a_killed_process_ends() {
    if Postgres::shared().is_none() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "postgres::the_process_that_is_killed", "--nocapture"]).env(HOLDS, "1");
    let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find_map(|line| line.split_once("server ").map(|(_, told)| told.to_owned()));
    let told = told.unwrap();
    let (process_id, folder) = told.split_once(' ').unwrap();
    let process_id = process_id.parse().unwrap();
    assert!(runs(process_id) && std::path::Path::new(folder).exists());
    holder.kill().unwrap();
    holder.wait().unwrap();
    until("the server has ended", || !runs(process_id));
    until("its files are gone", || !std::path::Path::new(folder).exists());
}

#[test]
#[expect(clippy::print_stdout, reason = "the other process reads it")]
fn the_process_that_is_killed() {
    if std::env::var_os(HOLDS).is_none() {
        return;
    }
    let postgres = Postgres::shared().unwrap();
    let data = postgres.psql("show data_directory");
    println!("server {} {}", postgres.process_id().unwrap(), data.trim_end_matches("/data"));
    std::thread::sleep(crate::PATIENCE);
}
