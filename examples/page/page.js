"use strict";

// The token is kept in the memory of this tab, because a third-party script could read it from web
// storage. A tab that is opened later requests the token from the other tabs.
let token = null;
const tabs = new BroadcastChannel("session");
const element = (id) => document.getElementById(id);
// Those that need a session.
const buttons = ["who", "log-out", "end"];

tabs.onmessage = ({ data }) => {
  if (data === "who has a token?") {
    if (token) tabs.postMessage({ token });
  } else if (data.token && !token) {
    enter(data.token, "This tab has taken over the session of another one.");
  }
};

function enter(newToken, state) {
  token = newToken;
  for (const button of buttons) element(button).disabled = false;
  element("state").textContent = state;
}

function leave(state) {
  token = null;
  for (const button of buttons) element(button).disabled = true;
  element("watch").checked = false;
  element("state").textContent = state;
}

// Sends a request and adds a row about its response.
async function ask(method, path, body) {
  const headers = {};
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  const began = performance.now();
  // Requests carry no cookie, because each tab represents a separate client.
  const answer = await fetch(`/api/v1/auth/${path}`, {
    method, headers, body: body && JSON.stringify(body), credentials: "omit", cache: "no-store",
  });
  const took = performance.now() - began;
  const text = await answer.text();
  const said = text ? JSON.parse(text) : {};
  const origin = answer.headers.get("x-session-origin") ?? "–";
  const row = element("answers").insertRow(0);
  if (!answer.ok) row.className = "refused";
  const that = said.email ?? said.reason ?? said.detail ?? said.user_id ?? "";
  for (const cell of [`${method} ${path}`, answer.status, origin, `${took.toFixed(1)} ms`, that]) {
    row.insertCell().textContent = cell;
  }
  while (element("answers").rows.length > 12) element("answers").deleteRow(-1);
  return { ok: answer.ok, status: answer.status, said };
}

async function whoAmI() {
  const { ok, status, said } = await ask("GET", "me");
  if (ok) element("state").textContent = `You are ${said.name || said.email}.`;
  else if (status === 401) leave(`This tab was refused: ${said.reason}.`);
}

// Wraps an action as an event handler that shows an error if the server is unavailable.
function does(action) {
  return (event) => {
    event?.preventDefault();
    action().catch((error) => { element("state").textContent = `No answer: ${error.message}`; });
  };
}

element("login").onsubmit = does(async () => {
  token = null;
  const { ok, said } = await ask("POST", "login", {
    email: element("email").value, password: element("password").value,
  });
  if (ok) enter(said.token, "Logged in.");
  else leave("Not logged in: the e-mail address or the password is wrong.");
});

element("who").onclick = does(whoAmI);

element("log-out").onclick = does(async () => {
  const { ok, status, said } = await ask("POST", "logout");
  if (ok) leave("Logged out.");
  // The session has ended on this node, but the provider or another node does not know it yet.
  else if (status === 503) leave(`Logged out here: ${said.detail}.`);
});

// Asks all the time while Appwrite ends the session, until this tab is refused.
element("end").onclick = does(async () => {
  const began = performance.now();
  let isFailed = false;
  const ended = ask("POST", "end-at-appwrite").then(({ ok }) => { isFailed = !ok; });
  let answer;
  do answer = await ask("GET", "me"); while (answer.ok && !isFailed);
  const took = performance.now() - began;
  await ended;
  if (answer.status !== 401) return;
  leave(`Ended in Appwrite's console. This tab was refused ${took.toFixed(1)} ms later.`);
});

setInterval(() => {
  if (token && element("watch").checked) does(whoAmI)();
}, 1000);

tabs.postMessage("who has a token?");
