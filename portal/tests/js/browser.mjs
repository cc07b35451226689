// Runs a script of a test in a browser of its own. Arguments: the browser's program, the script, a
// file with the script's input, a file for its result. A script is a module whose default export is
//
//   async ({ browser, context, page, input, problems, load }) => result
//
// `problems` collects what a person sees only in the console: errors, exceptions, failed requests.
// `load(name)` imports a package that is installed beside this file.

import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

import { chromium } from 'playwright-core';

const [executablePath, script, input, result] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  headless: true,
  // A signal ends this script at once; the browser ends when nobody speaks to it any more.
  handleSIGHUP: false,
  handleSIGINT: false,
  handleSIGTERM: false,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
const context = await browser.newContext({ ignoreHTTPSErrors: true });
const problems = [];
context.on('console', (message) => {
  if (message.type() === 'error') problems.push(message.text());
});
context.on('weberror', (error) => problems.push(String(error.error())));
context.on('requestfailed', (request) => problems.push(`${request.url()}: ${request.failure()?.errorText}`));
const page = await context.newPage();
try {
  const run = (await import(pathToFileURL(script))).default;
  const given = JSON.parse(readFileSync(input, 'utf8'));
  const load = (name) => import(name);
  const made = await run({ browser, context, page, input: given, problems, load });
  writeFileSync(result, JSON.stringify(made ?? null));
} catch (error) {
  console.error(error);
  const seen = await page.innerText('body').catch(() => '');
  console.error(`at ${page.url()}\n${problems.join('\n')}\n---- the page ----\n${seen.slice(0, 4000)}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
