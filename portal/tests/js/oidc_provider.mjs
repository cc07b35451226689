// An OpenID provider for tests: oidc-provider, with accounts that log in without a password and a
// page, and that lies when it is told to. Its only argument is a file with its configuration.

import crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

import Provider, { interactionPolicy } from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const HONEST = { claims: {}, header: {}, userinfo: {}, discovery: {}, status: {}, clock_skew: 0, signature: 'good', denies: false };

// Codes, sessions and tokens outlive a rotation of keys, for which the provider is built again.
const adapter = createMemoryAdapter();
const cookieKeys = [crypto.randomBytes(32).toString('hex')];

let behavior = { ...HONEST };
let keys = newKeys();
let provider = build();

function newKeys() {
  return [
    crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
    crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  ].map(({ privateKey }) => {
    const jwk = privateKey.export({ format: 'jwk' });
    return { ...jwk, use: 'sig', alg: jwk.kty === 'RSA' ? 'RS256' : 'ES256', kid: crypto.randomUUID() };
  });
}

function build() {
  const policy = interactionPolicy.base();
  // Whoever asks for another account than the one of the session logs in again.
  policy.get('login').checks.add(new interactionPolicy.Check('other_account', 'another account is asked for', ({ oidc }) => {
    const hint = oidc.params.login_hint;
    const isOther = hint !== undefined && oidc.session.accountId !== undefined && oidc.session.accountId !== hint;
    return isOther && !oidc.result?.login;
  }));
  const built = new Provider(config.issuer, {
    adapter,
    claims: {
      openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'], groups: ['groups'],
    },
    clients: config.clients,
    conformIdTokenClaims: !config.claims_in_id_token,
    cookies: { keys: cookieKeys },
    features: {
      devInteractions: { enabled: false },
      deviceFlow: {
        enabled: true,
        charset: 'base-20',
        mask: '****-****',
        userCodeInputSource: page,
        userCodeConfirmSource: page,
        successSource: (ctx) => page(ctx, 'the device is connected'),
      },
      introspection: { enabled: true },
      revocation: { enabled: true },
    },
    findAccount,
    interactions: { policy, url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    jwks: { keys },
    pkce: { required: () => true },
    renderError: (ctx, out) => page(ctx, JSON.stringify(out)),
    scopes: ['openid', 'offline_access', 'email', 'profile', 'groups'],
    ttl: {
      AccessToken: 3600, AuthorizationCode: 60, DeviceCode: 600, Grant: 86400, IdToken: 3600, Interaction: 600, Session: 86400,
    },
  });
  built.use(lie);
  return built;
}

function page(ctx, body) {
  ctx.type = 'html';
  ctx.body = `<!DOCTYPE html><title>Provider</title>${body}`;
}

function findAccount(ctx, id) {
  const known = config.accounts[id];
  return known && { accountId: id, claims: () => ({ sub: id, ...known }) };
}

async function lie(ctx, next) {
  await next();
  if (ctx.oidc?.route === 'token' && ctx.body?.id_token) {
    ctx.body = { ...ctx.body, id_token: falsified(ctx.body.id_token) };
  } else if (ctx.oidc?.route === 'userinfo' && ctx.status === 200) {
    ctx.body = changed(ctx.body, behavior.userinfo);
  } else if (ctx.oidc?.route === 'discovery') {
    ctx.body = changed(ctx.body, behavior.discovery);
  }
}

// What is null is left out.
function changed(original, changes) {
  const all = Object.entries({ ...original, ...changes });
  return Object.fromEntries(all.filter(([, value]) => value !== null));
}

function falsified(token) {
  const [header, claims] = token.split('.').slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')));
  const key = keys.find(({ kid }) => kid === header.kid);
  for (const name of ['iat', 'exp', 'nbf', 'auth_time']) {
    if (name in claims) claims[name] += behavior.clock_skew;
  }
  return signed(changed(header, behavior.header), changed(claims, behavior.claims), key);
}

function signed(header, claims, key) {
  const algorithm = { none: 'none', hmac: 'HS256' }[behavior.signature] ?? header.alg;
  const parts = [{ ...header, alg: algorithm }, claims];
  const text = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${text}.${signature(text, key).toString('base64url')}`;
}

function signature(text, jwk) {
  const own = crypto.createPrivateKey({ key: jwk, format: 'jwk' });
  switch (behavior.signature) {
    case 'none':
      return Buffer.alloc(0);
    case 'hmac': {
      // The public key as if it were a shared secret: who takes the algorithm from the token believes it.
      const secret = crypto.createPublicKey(own).export({ type: 'spki', format: 'pem' });
      return crypto.createHmac('sha256', secret).update(text).digest();
    }
    case 'foreign': {
      const foreign = newKeys().find(({ kty }) => kty === jwk.kty);
      return sign(text, crypto.createPrivateKey({ key: foreign, format: 'jwk' }));
    }
    default:
      return sign(text, own);
  }
}

function sign(text, key) {
  return crypto.sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' });
}

// Logs in whom `?account=` or `login_hint` names, and consents to all that is asked for.
async function interact(request, response, url) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (behavior.denies) {
    return finish(request, response, { error: 'access_denied', error_description: 'told to deny' });
  }
  if (prompt.name === 'login') {
    const account = url.searchParams.get('account') ?? params.login_hint;
    if (!config.accounts[account]) {
      return answer(response, 403, { error: 'no such account', account });
    }
    return finish(request, response, { login: { accountId: account, amr: ['pwd'] } });
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope((prompt.details.missingOIDCScope ?? []).join(' '));
  grant.addOIDCClaims(prompt.details.missingOIDCClaims ?? []);
  return finish(request, response, { consent: { grantId: await grant.save() } });
}

function finish(request, response, result) {
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

async function control(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const order = JSON.parse(Buffer.concat(chunks));
  if (order.behavior) behavior = { ...HONEST, ...order.behavior };
  if (order.accounts) config.accounts = order.accounts;
  if (order.rotate) {
    keys = [...newKeys(), ...(order.rotate === 'keep' ? keys : [])];
    provider = build();
  }
  answer(response, 200, { kids: keys.map(({ kid }) => kid) });
}

function answer(response, status, document) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(document));
}

async function serve(request, response) {
  const url = new URL(request.url, config.issuer);
  if (url.pathname === '/control') return control(request, response);
  const status = behavior.status[url.pathname];
  if (status) return answer(response, status, { error: 'told to fail' });
  if (url.pathname.startsWith('/interaction/')) return interact(request, response, url);
  return provider.callback()(request, response);
}

const listener = (request, response) => serve(request, response).catch((error) => {
  console.error(error);
  if (!response.headersSent) answer(response, 500, { error: String(error) });
});
const server = config.certificate
  ? https.createServer({ cert: readFileSync(config.certificate), key: readFileSync(config.key) }, listener)
  : http.createServer(listener);
server.listen(config.port, '127.0.0.1');
