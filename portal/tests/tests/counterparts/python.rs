//! What tests descriptions of APIs runs, and is told about wrong ones.

use culvert_portal_tests::process::folder;
use culvert_portal_tests::python::Python;

use crate::upstream::Upstream;

#[test]
fn descriptions_are_validated_tested_and_made_clients_of() {
    let Some(python) = Python::open_api() else { return };
    let folder = folder();
    let file = folder.path().join("openapi.json");
    let description = serde_json::json!({
        "openapi": "3.1.0",
        "info": {"title": "One path", "version": "1"},
        "paths": {"/things": {"get": {"operationId": "things", "responses": {"200": {
            "description": "All of them", "content": {"text/html": {"schema": {"type": "string"}}}}}}}},
    });
    std::fs::write(&file, description.to_string()).unwrap();
    let path = file.to_str().unwrap();
    let _ = python.run(["-m", "openapi_spec_validator", path]).succeeds();
    let upstream = Upstream::start("one");
    let url = format!("--url=http://{}", upstream.address);
    let arguments = ["-m", "schemathesis.cli", "run", path, &url, "--checks=status_code_conformance"];
    let _ = python.run(arguments.into_iter().chain(["--max-examples=5", "--phases=fuzzing"])).succeeds();
    let output = folder.path().join("client");
    let arguments = ["-m", "openapi_python_client", "generate", "--meta=none", "--path", path, "--output-path"];
    let _ = python.run(arguments.into_iter().chain([output.to_str().unwrap()])).succeeds();
    assert!(output.join("api/default/things.py").exists());

    std::fs::write(&file, description.to_string().replace("responses", "answers")).unwrap();
    let ran = python.run(["-m", "openapi_spec_validator", path]);
    assert_ne!(ran.code, 0, "{ran:?}");
}
