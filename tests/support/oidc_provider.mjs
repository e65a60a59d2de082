// node-oidc-provider with its in-memory adapter. oidc_provider.rs starts it in the folder whose
// node_modules `tests/idp/fetch` has installed, with the clients' metadata as JSON.
import http from 'node:http';
import { text } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';

const { Provider } = await import(pathToFileURL('node_modules/oidc-provider/lib/index.js'));

const clients = JSON.parse(process.argv[2]);
const disabledAccounts = new Set();

const server = http.createServer();
await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients,
  cookies: { keys: ['a secret of the tests'] },
  features: {
    backchannelLogout: { enabled: true },
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: {
      enabled: true,
      // As Keycloak: a token with an audience is inactive for a client that is not in it.
      allowedPolicy: (_, client, { aud }) => !aud || [aud].flat().includes(client.clientId),
    },
    revocation: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      // What the test needs to confirm the logout, in place of a page.
      logoutSource(context) { context.body = { xsrf: context.oidc.session.state.secret }; },
    },
  },
  // Without the dispatcher that refuses private addresses, to which logout tokens are sent here.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  findAccount: (_, accountId) => (disabledAccounts.has(accountId) ? undefined : {
    accountId,
    claims: () => ({ sub: accountId }),
  }),
  interactions: { url: (_, { uid }) => `${issuer}/interaction/${uid}` },
  issueRefreshToken: () => true,
  pkce: { required: () => false },
});

// The page for login and consent: accepts the user that the request names.
async function interact(request, response) {
  const { params } = await provider.interactionDetails(request, response);
  const grant = new provider.Grant({ accountId: params.login_hint, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(request, response, {
    login: { accountId: params.login_hint },
    consent: { grantId: await grant.save() },
  });
}

// Calls of the test that no endpoint of a provider offers.
const controls = {
  async '/test/access-token'({ sub, ...settings }) {
    const token = new provider.AccessToken({ accountId: sub, ...settings });
    return { access_token: await token.save() };
  },
  async '/test/disable'({ sub }) {
    disabledAccounts.add(sub);
    return {};
  },
  async '/test/enable'({ sub }) {
    disabledAccounts.delete(sub);
    return {};
  },
};

const serve = provider.callback();
server.on('request', async (request, response) => {
  if (request.url.startsWith('/interaction/')) {
    await interact(request, response);
  } else if (request.url in controls) {
    const result = await controls[request.url](JSON.parse(await text(request)));
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(result));
  } else {
    serve(request, response);
  }
});
console.log(`Listening on: ${issuer}`);
