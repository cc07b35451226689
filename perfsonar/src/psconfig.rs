//! The pSConfig template with which a site includes this node in its mesh.

use serde_json::{Map, Value, json};

/// The contents of the template.
#[derive(Clone, Debug)]
pub struct Template<'a> {
    /// The address under which other hosts reach this node.
    pub address: &'a str,
    /// perfSONAR hosts that are to measure to it.
    pub hosts: &'a [String],
    /// Whether this node answers TWAMP, so that latency can be measured.
    pub answers_twamp: bool,
    /// The URL of the archive that receives the results.
    pub archive: Option<&'a str>,
}

impl Template<'_> {
    /// The template as pSConfig agents read it. Without perfSONAR hosts it has addresses and tests
    /// but no tasks.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut addresses = Map::new();
        addresses.insert("culvert".into(), json!({ "address": self.address }));
        let mut names = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let name = format!("perfsonar-{}", number + 1);
            addresses.insert(name.clone(), json!({ "address": host }));
            names.push(json!({ "name": name }));
        }
        let ends = || json!({ "source": "{% address[0] %}", "dest": "{% address[1] %}" });
        let mut tests = Map::new();
        let mut test = |kind: &str, more: Value| {
            let mut spec = ends();
            if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
                spec.extend(more);
            }
            tests.insert(format!("culvert-{kind}"), json!({ "type": kind, "spec": spec }));
        };
        test("rtt", json!({ "count": 10 }));
        test("trace", json!({}));
        test("mtu", json!({}));
        if self.answers_twamp {
            test("latency", json!({ "schema": 4, "packet-count": 600, "packet-interval": 0.1, "protocol": "twamp" }));
        }
        let mut template = json!({
            "addresses": addresses,
            "tests": tests,
            "schedules": { "culvert-often": { "repeat": "PT10M", "slip": "PT10M", "sliprand": true }, "culvert-seldom": { "repeat": "PT1H", "slip": "PT1H", "sliprand": true } },
        });
        let mut archives = Vec::new();
        if let Some(url) = self.archive {
            let headers = json!({ "x-ps-observer": "{% scheduled_by_address %}", "content-type": "application/json" });
            template["archives"] = json!({ "culvert-site": { "archiver": "http", "data": { "schema": 2, "_url": url, "op": "put", "_headers": headers } } });
            archives.push("culvert-site");
        }
        if !names.is_empty() {
            template["groups"] = json!({ "culvert-pairs": { "type": "disjoint", "a-addresses": names, "b-addresses": [{ "name": "culvert" }] } });
            let task = |test: &String| {
                let schedule =
                    if test.ends_with("rtt") || test.ends_with("latency") { "culvert-often" } else { "culvert-seldom" };
                let mut task = json!({ "group": "culvert-pairs", "test": test, "schedule": schedule });
                if !archives.is_empty() {
                    task["archives"] = json!(archives);
                }
                (test.clone(), task)
            };
            let tasks: Map<String, Value> =
                template["tests"].as_object().map(|tests| tests.keys().map(task).collect()).unwrap_or_default();
            template["tasks"] = Value::Object(tasks);
        }
        template
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_task_names_is_there() {
        let hosts = ["ps1.example.org".to_owned(), "ps2.example.org".to_owned()];
        let template = Template {
            address: "dtn1.example.org",
            hosts: &hosts,
            answers_twamp: true,
            archive: Some("https://a.example.org/logstash"),
        }
        .to_json();
        let tasks = template["tasks"].as_object().unwrap();
        assert_eq!(tasks.len(), 4);
        for task in tasks.values() {
            assert!(template["groups"].get(task["group"].as_str().unwrap()).is_some());
            assert!(template["tests"].get(task["test"].as_str().unwrap()).is_some());
            assert!(template["schedules"].get(task["schedule"].as_str().unwrap()).is_some());
            assert!(template["archives"].get(task["archives"][0].as_str().unwrap()).is_some());
        }
        for name in template["groups"]["culvert-pairs"]["a-addresses"].as_array().unwrap() {
            assert!(template["addresses"].get(name["name"].as_str().unwrap()).is_some());
        }
    }

    #[test]
    fn without_perfsonar_hosts_there_is_no_task() {
        let template = Template { address: "dtn1", hosts: &[], answers_twamp: false, archive: None }.to_json();
        assert!(template.get("tasks").is_none() && template.get("archives").is_none());
        assert!(template["tests"].get("culvert-latency").is_none());
    }
}
