// Passkeys: signing in with one; showing with one that it is you; adding one.
import { post } from "./http.js";

const supported = "PublicKeyCredential" in window && "credentials" in navigator;

const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (each) => each.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const named = (each) => ({ ...each, id: bytes(each.id) });

function trouble(sentence) {
  const place = document.querySelector("[data-passkey-trouble]");
  place.textContent = sentence;
  place.hidden = !sentence;
}

// What browsers say in one word is told in a sentence; what the server said is one already.
const SENTENCES = {
  NotAllowedError: "No passkey was used: it was cancelled, took too long, or this device has none for Gatehouse.",
  InvalidStateError: "This device has a passkey of yours already.",
  SecurityError: "Passkeys work only at Gatehouse's own address. Open it there.",
};

async function options(url, fields) {
  const answer = await post(url, fields);
  if (answer.trouble) throw new Error(answer.trouble);
  return answer.options;
}

function written(credential, names) {
  const response = Object.fromEntries(
    names.filter((name) => credential.response[name]).map((name) => [name, text(credential.response[name])]),
  );
  return JSON.stringify({ id: credential.id, rawId: text(credential.rawId), type: credential.type, response });
}

// What a passkey signs for the server's challenge.
async function signed(url) {
  const asked = await options(url);
  const publicKey = { ...asked, challenge: bytes(asked.challenge) };
  const found = await navigator.credentials.get({ publicKey });
  return written(found, ["clientDataJSON", "authenticatorData", "signature", "userHandle"]);
}

// A new passkey, after the server believes that it is you.
async function made(url, proof) {
  const asked = await options(url, { action: "begin", ...proof });
  const publicKey = {
    ...asked,
    challenge: bytes(asked.challenge),
    user: named(asked.user),
    excludeCredentials: (asked.excludeCredentials ?? []).map(named),
  };
  const found = await navigator.credentials.create({ publicKey });
  return written(found, ["clientDataJSON", "attestationObject"]);
}

// Handle a form's submission here first; `work` fills it in, and then it goes. A failure is a sentence on the page.
function before(form, work) {
  let ready = false;
  form.addEventListener("submit", async (event) => {
    if (ready) return;
    event.preventDefault();
    trouble("");
    try {
      await work(event.submitter);
      ready = true;
    } catch (error) {
      trouble(SENTENCES[error.name] ?? error.message);
    }
    if (ready) form.requestSubmit(event.submitter);
  });
}

const proven = async (form) => {
  const url = form.dataset.passkeyProof;
  return url && !form.elements.code?.value ? await signed(url) : "";
};

if (supported) {
  for (const form of document.querySelectorAll("[data-passkey-sign-in]")) {
    form.hidden = false;
    for (const or of document.querySelectorAll("[data-passkey-or]")) or.hidden = false;
    before(form, async () => (form.elements.assertion.value = await signed(form.dataset.passkeySignIn)));
  }
}

for (const form of document.querySelectorAll("form[data-passkey-proof], form[data-passkeys]")) {
  before(form, async (button) => {
    const fields = form.elements;
    const assertion = await proven(form);
    if (button?.value === "add") {
      const { code, password } = fields;
      const proof = { assertion, code: code?.value ?? "", password: password?.value ?? "" };
      fields.credential.value = await made(form.dataset.passkeys, proof);
      for (const used of [code, password]) if (used) used.value = "";
      for (const used of [code, password]) used?.removeAttribute("required");
    } else {
      fields.assertion.value = assertion;
    }
  });
}
