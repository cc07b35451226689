//! The browser opens pages, through nginx, and tells what went wrong in them.

use culvert_portal_tests::browser::Browser;
use culvert_portal_tests::nginx::{Nginx, NginxOptions};
use culvert_portal_tests::process::folder;
use serde_json::json;

use crate::upstream::Upstream;

#[test]
fn a_script_reads_the_title_of_a_page() {
    let Some(browser) = Browser::find() else { return };
    let upstream = Upstream::start("one");
    let Some(nginx) = Nginx::start(&NginxOptions::new(upstream.address)) else { return };
    let folder = folder();
    let script = folder.path().join("title.mjs");
    let text = "export default async ({ page, input, problems, load }) => {
        await page.goto(input.url);
        await page.evaluate(() => console.error('a complaint'));
        const { AxeBuilder } = await load('@axe-core/playwright');
        const found = await new AxeBuilder({ page }).analyze();
        return { title: await page.title(), problems, rules: found.violations.map(({ id }) => id) };
    };";
    std::fs::write(&script, text).unwrap();
    let seen = browser.run(&script, &json!({"url": nginx.url()}));
    assert_eq!((&seen["title"], &seen["problems"]), (&json!("one"), &json!(["a complaint"])), "{seen}");
    assert!(seen["rules"].as_array().unwrap().contains(&json!("html-has-lang")), "{seen}");
}

#[test]
#[should_panic(expected = "the page says no")]
fn a_script_that_fails_fails_the_test() {
    let Some(browser) = Browser::find() else { panic!("the page says no: there is no browser") };
    let folder = folder();
    let script = folder.path().join("fails.mjs");
    std::fs::write(&script, "export default async () => { throw new Error('the page says no'); };").unwrap();
    let _ = browser.run(&script, &json!(null));
}
