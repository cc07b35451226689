//! nginx ends TLS, tells the portal the truth about who asks, and does not hold back events.

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::nginx::{Nginx, NginxOptions};
use culvert_portal_tests::ports::answers;

use crate::until;
use crate::upstream::Upstream;

fn client(nginx: &Nginx) -> Client {
    Client::trusting(&std::fs::read_to_string(nginx.authority_file()).unwrap())
}

#[test]
fn the_portal_learns_the_clients_address_and_the_host_it_asked_for() {
    let upstream = Upstream::start("one");
    let Some(nginx) = Nginx::start(&NginxOptions::new(upstream.address)) else { return };
    let url = format!("{}/path?query", nginx.url());
    let request = Request::new("GET", &url).with("X-Forwarded-For", "192.0.2.1").with("X-Forwarded-Proto", "http");
    let answer = client(&nginx).send(&request).unwrap();
    let seen = answer.text().to_ascii_lowercase();
    assert_eq!(answer.status, 200);
    assert!(seen.contains("get /path?query http/1.1\n"), "{seen}");
    assert!(seen.contains("\nx-forwarded-for: 127.0.0.1\n") && !seen.contains("192.0.2.1"), "{seen}");
    assert!(seen.contains("\nx-forwarded-proto: https\n"), "{seen}");
    assert!(seen.contains(&format!("\nhost: localhost:{}\n", nginx.address().port())), "{seen}");
    // It writes what it has answered.
    until("the request is logged", || nginx.access_log().contains("/path?query"));
    // Nobody else's certificate is as good.
    let stranger = culvert_portal_tests::tls::Authority::new();
    assert!(Client::trusting(stranger.pem()).send(&Request::new("GET", &url)).is_err());
    let address = nginx.address();
    drop(nginx);
    assert!(!answers(address));
}

#[test]
fn plain_http_is_redirected_with_the_chosen_status() {
    let upstream = Upstream::start("one");
    for status in [301, 302, 307, 308] {
        let options = NginxOptions { redirect_status: status, ..NginxOptions::new(upstream.address) };
        let Some(nginx) = Nginx::start(&options) else { return };
        let answer = Client::new().get(&format!("{}/path?query", nginx.plain_url()));
        assert_eq!(answer.status, status);
        assert_eq!(answer.redirect().unwrap().as_str(), format!("{}/path?query", nginx.url()));
    }
}

#[test]
fn events_arrive_while_the_answer_goes_on() {
    let upstream = Upstream::start("one");
    let Some(nginx) = Nginx::start(&NginxOptions::new(upstream.address)) else { return };
    let request = Request::new("GET", &format!("{}/api/v1/events", nginx.url()));
    let mut events = client(&nginx).open(&request).unwrap();
    assert_eq!(events.answer.header("content-type"), Some("text/event-stream"));
    events.wait_for("data: first");
    upstream.go_on.send(()).unwrap();
    events.wait_for("data: second");
}

#[test]
fn two_portals_answer_in_turn_and_one_for_both() {
    let [one, two] = ["one", "two"].map(Upstream::start);
    let gone = culvert_portal_tests::ports::Port::reserve();
    for (addresses, expected) in [([one.address, two.address], 2), ([one.address, gone.address()], 1)] {
        let options = NginxOptions { upstreams: addresses.to_vec(), ..NginxOptions::new(one.address) };
        let Some(nginx) = Nginx::start(&options) else { return };
        let mut client = client(&nginx);
        let answers = (0..4).map(|_| client.get(&nginx.url()));
        let mut names: Vec<String> = answers
            .map(|answer| {
                assert_eq!(answer.status, 200);
                answer.text().lines().next().unwrap().to_owned()
            })
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), expected, "{names:?}");
        assert_eq!(nginx.error_log().contains("Connection refused"), expected == 1, "{}", nginx.error_log());
    }
}
