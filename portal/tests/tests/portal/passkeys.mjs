// Registers a passkey and uses it, with Chromium's virtual authenticator. Input: the portal's
// address, and the name and password of somebody.
//
// The page is an empty one of the portal's origin, without its policy, since the portal's own
// pages are not what is tested.

export default async ({ context, page, input }) => {
  const { portal, name, password } = input;
  const api = `${portal}/api/v1`;
  const client = await context.newCDPSession(page);
  await client.send('WebAuthn.enable');
  const { authenticatorId } = await client.send('WebAuthn.addVirtualAuthenticator', {
    options: {
      protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true,
      isUserVerified: true, automaticPresenceSimulation: true,
    },
  });
  const empty = (route) => route.fulfill({ contentType: 'text/html', body: '<title>x</title>' });
  await context.route(`${portal}/empty`, empty);
  await page.goto(`${portal}/empty`);

  const ask = async (method, path, data) => {
    const answered = await context.request.fetch(`${api}${path}`, { method, data });
    const text = await answered.text();
    return { status: answered.status(), body: text ? JSON.parse(text) : null };
  };
  const post = (path, data) => ask('POST', path, data ?? {});
  const cookie = async () => (await context.cookies(portal)).find((one) => one.name === '__Host-culvert')?.value;
  const create = (options) => page.evaluate(async (json) => {
    const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(json);
    return (await navigator.credentials.create({ publicKey })).toJSON();
  }, options.publicKey);
  const show = async (change) => {
    const options = (await post('/login/passkey/begin')).body.publicKey;
    return page.evaluate(async (json) => {
      const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(json);
      return (await navigator.credentials.get({ publicKey })).toJSON();
    }, { ...options, ...change });
  };

  await post('/sessions', { name, password });
  const credential = await create((await post('/me/passkeys/begin')).body);
  const registered = await post('/me/passkeys', { name: 'laptop', credential });
  const twice = await post('/me/passkeys', { name: 'again', credential });
  const me = (await ask('GET', '/me')).body;
  await ask('DELETE', '/sessions/current');

  const withPassword = await post('/sessions', { name, password });
  const shown = await show();
  const alone = await post('/login/passkey', { credential: shown });
  const replayed = await post('/login/passkey', { credential: shown });
  const code = registered.body.recovery_codes[0];
  const recovered = await post('/sessions', { name, password, code });
  const cookies = [await cookie()];
  const proved = await post('/me/step-up/passkey', { credential: await show() });
  cookies.push(await cookie());

  const letter = (text, at) => text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1);
  const good = await show();
  const changed = structuredClone(good);
  changed.response.signature = letter(changed.response.signature, 20);
  const forged = await post('/login/passkey', { credential: changed });
  const spent = await post('/login/passkey', { credential: good });

  // The authenticator's person is not verified: the flag is missing.
  await client.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: false });
  const unverified = await post('/login/passkey', { credential: await show({ userVerification: 'discouraged' }) });
  await client.send('WebAuthn.setUserVerified', { authenticatorId, isUserVerified: true });

  // What a page at another origin of the same host got from the authenticator.
  const other = new URL(portal);
  other.port = String(Number(other.port) === 65535 ? 65534 : Number(other.port) + 1);
  await context.route(`${other.origin}/empty`, empty);
  await page.goto(`${other.origin}/empty`);
  const elsewhere = await post('/login/passkey', { credential: await show() });
  await page.goto(`${portal}/empty`);

  const last = await show();
  const removal = await ask('DELETE', `/me/passkeys/${registered.body.passkey.id}`);
  const removed = await post('/login/passkey', { credential: last });
  const without = await post('/sessions', { name, password });
  return {
    registered, twice, me, password: withPassword, alone, replayed, recovered, proved, cookies, forged, spent, unverified,
    elsewhere, removal, removed, without,
  };
};
