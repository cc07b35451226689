// Logs in, comes to a device's code, and links an identity, each time by way of a provider at
// another origin. Input: the portal's address; two accounts at the provider; the name and password
// of somebody who is at the portal already; a device's code.
//
// The portal's pages are not needed: links are put into a document of the portal, which has the
// portal's policy, and pressed.

export default async ({ browser, context, page, input, problems }) => {
  const { portal, accounts, name, password, code } = input;
  const reports = [];
  const watch = (seen) => seen.on('console', (message) => {
    if (/content security policy/i.test(message.text())) reports.push(message.text());
  });
  watch(page);

  const press = async (seen, href, arrives) => {
    await Promise.all([
      seen.waitForURL(arrives),
      seen.evaluate((to) => {
        const link = document.createElement('a');
        link.href = to;
        document.body.append(link);
        link.click();
      }, href),
    ]);
    return seen.url();
  };
  const atPortal = async (seen) => seen.goto(`${portal}/api/v1/login/providers`);
  const elsewhere = (url) => url.origin !== portal;
  // The provider asks who it is, and is told.
  const answer = async (seen, account) => {
    const asked = new URL(seen.url());
    asked.searchParams.set('account', account);
    await seen.goto(asked.href);
    return { at: new URL(seen.url()).pathname, shown: JSON.parse(await seen.innerText('body')) };
  };
  const api = `${portal}/api/v1`;

  await atPortal(page);
  const away = await press(page, `${api}/login/oidc/real?next=/api/v1/me`, elsewhere);
  const loggedIn = await answer(page, accounts[0]);

  // The session ends; whoever opens the device's page is sent to log in first. The provider still
  // knows them, so they come back at once.
  await context.request.delete(`${api}/sessions/current`);
  await atPortal(page);
  const next = encodeURIComponent(`/api/v1/device?user_code=${code}`);
  await press(page, `${api}/login/oidc/real?next=${next}`, (url) => url.pathname === '/api/v1/device');
  const device = JSON.parse(await page.innerText('body'));

  // Somebody else, in another browser, links an identity.
  const theirs = await browser.newContext({ ignoreHTTPSErrors: true });
  const other = await theirs.newPage();
  watch(other);
  const session = await theirs.request.post(`${api}/sessions`, { data: { name, password } });
  const link = `${api}/me/identities/link/real?next=/api/v1/me/identities`;
  await atPortal(other);
  await press(other, link, elsewhere);
  // A page of another site cannot begin this.
  const refused = await press(other, link, (url) => url.origin === portal);
  await atPortal(other);
  await press(other, link, elsewhere);
  const linked = await answer(other, accounts[1]);

  const cookies = await context.cookies(portal);
  return { away, loggedIn, device, session: session.status(), refused, linked, reports, problems, cookies };
};
