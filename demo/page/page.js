// The page: takes pictures from a camera or a file, sends one at a time, draws the boxes that come
// back over the live picture.
import { classColor, drawBoxes, fitToScreen } from "/boxes.js";
import { Speed } from "/plot.js";

const $ = (id) => document.getElementById(id);
const video = $("video"), still = $("still"), frame = $("frame"), overlay = $("boxes");
const JPEG_QUALITY = 0.8;
const LONGEST_SENT_PX = 1280;
const FIGURES_MS = 500; // between two looks at what the server's source does
const ANSWER_MS = 5000; // then another frame is sent, whatever became of the last
const RETRY_MS = [500, 1000, 2000, 4000];

const speed = new Speed();
const sending = document.createElement("canvas");
const state = {
  models: [],
  served: null, // thresholds that the server was started with
  settings: null, // what the server is asked for: confidence, iou, model
  hidden: new Set(), // class names that are not shown
  kind: null, // "camera", "video", "picture", "server"
  stream: null,
  url: null,
  boxes: [],
  size: [1, 1],
  number: 0, // of the last frame that was sent
  before: 0, // of the last one that showed another source
  inFlight: null, // { number, at }
  sent: 0,
  answered: false, // whether a still picture was looked at
};
let socket = null;
let attempts = 0;

// ---- connection -------------------------------------------------------------------------------

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => receive(JSON.parse(data));
  socket.onclose = ({ code, reason }) => {
    state.inFlight = null;
    showConnection(code === 1013 ? reason : "connection lost, trying again", false);
    setTimeout(connect, RETRY_MS[Math.min(attempts++, RETRY_MS.length - 1)]);
  };
}

function receive(message) {
  if (message.type === "hello") return welcome(message);
  const newest = state.inFlight?.number === message.frame;
  if (message.type === "error") {
    notice(message.message);
    if (newest) Object.assign(state, { inFlight: null, answered: true });
    return undefined;
  }
  const now = performance.now();
  const latency = newest ? now - state.inFlight.at : null;
  if (newest) state.inFlight = null;
  // One that was given up still tells more than none; one to another source does not.
  if (!newest && !isOfThisSource(message.frame)) return undefined;
  if (!state.kind || message.model !== state.settings.model) return undefined;
  state.answered = true;
  // A seventh number: the object's, from frame to frame; 0 for none.
  state.boxes = message.boxes.map((box, row) => [...box, Math.max(message.track_ids[row] ?? 0, 0)]);
  state.size = message.size_wh;
  if (latency !== null) speed.add(now, latency);
  $("detect").textContent = message.detect_ms.toFixed(1);
  document.body.dataset.answers = String(Number(document.body.dataset.answers ?? 0) + 1);
  show();
  return undefined;
}

const isOfThisSource = (frame) => (state.number - frame) >>> 0 < (state.number - state.before) >>> 0;

function welcome(hello) {
  attempts = 0;
  state.models = hello.models;
  state.served = { confidence: hello.confidence, iou: hello.iou };
  state.settings ??= { confidence: hello.confidence, iou: hello.iou, model: hello.model };
  state.settings.model = Math.min(state.settings.model, hello.models.length - 1);
  $("sample").hidden = !hello.sample;
  $("sample").onclick = () => showSample(hello.sample);
  $("server-source").hidden = !hello.source;
  $("server-source").textContent = hello.source ?? "";
  showModels();
  showClasses();
  showThresholds();
  showConnection("connected", true);
  sendSettings();
}

function sendSettings() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify(state.settings));
  Object.assign(state, { sent: 0, answered: false }); // a still picture is looked at again
}

// ---- sending ----------------------------------------------------------------------------------

function picture() {
  // It has its size as soon as its first bytes are there, and is drawn as far as it has come.
  if (state.kind === "picture") return still.complete && still.naturalWidth ? still : null;
  const plays = state.kind === "camera" || state.kind === "video";
  return plays && video.readyState >= 2 && video.videoWidth ? video : null;
}

const sizeOf = (source) =>
  source === still ? [still.naturalWidth, still.naturalHeight] : [video.videoWidth, video.videoHeight];

function sendNewest() {
  const source = picture();
  const waits = state.inFlight && performance.now() - state.inFlight.at < ANSWER_MS;
  if (!source || waits || socket?.readyState !== WebSocket.OPEN || !state.settings) return;
  if (state.kind === "picture" && state.answered) return; // nothing has changed
  if (state.kind === "video" && video.paused && state.sent > 0) return;
  const [width, height] = sizeOf(source);
  // The network sees no more pixels than its input has; what it need not see is not sent.
  const wanted = Math.max(...state.models[state.settings.model].size_hw);
  const scale = Math.min(1, Math.max(wanted, 320) / Math.max(width, height));
  sending.width = Math.max(1, Math.round(Math.min(width * scale, LONGEST_SENT_PX)));
  sending.height = Math.max(1, Math.round(Math.min(height * scale, LONGEST_SENT_PX)));
  sending.getContext("2d", { alpha: false }).drawImage(source, 0, 0, sending.width, sending.height);
  const number = (state.number = (state.number + 1) % 2 ** 32);
  state.inFlight = { number, at: performance.now() };
  state.sent += 1;
  sending.toBlob(async (blob) => {
    if (!blob || state.inFlight?.number !== number) return;
    const message = new Uint8Array(4 + blob.size);
    new DataView(message.buffer).setUint32(0, number);
    message.set(new Uint8Array(await blob.arrayBuffer()), 4);
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
  }, "image/jpeg", JPEG_QUALITY);
}

// ---- what is looked at ------------------------------------------------------------------------

function leaveSource() {
  state.stream?.getTracks().forEach((track) => track.stop());
  if (state.url) URL.revokeObjectURL(state.url);
  video.pause();
  video.removeAttribute("src");
  video.srcObject = null;
  still.removeAttribute("src");
  Object.assign(state, { kind: null, stream: null, url: null, boxes: [], inFlight: null, sent: 0, answered: false });
  state.before = state.number; // frames up to here show something else
  speed.clear();
  notice(null);
  for (const id of ["fps", "latency", "detect", "count"]) $(id).textContent = "–";
  showSource();
}

function enter(kind) {
  state.kind = kind;
  showSource();
}

async function useCamera() {
  leaveSource();
  if (!navigator.mediaDevices?.getUserMedia) {
    notice("The browser lends its camera to https and localhost only. A picture or video works.");
    return;
  }
  try {
    const wanted = { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "environment" };
    state.stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    notice(denied ? "The camera was not allowed." : `No camera: ${error.message}`);
    return;
  }
  const [track] = state.stream.getVideoTracks();
  track.onended = () => {
    leaveSource();
    notice("The camera has gone.");
  };
  frame.classList.toggle("mirrored", track.getSettings().facingMode === "user");
  video.srcObject = state.stream;
  await video.play();
  enter("camera");
}

function useFile(file) {
  leaveSource();
  state.url = URL.createObjectURL(file);
  if (file.type.startsWith("video/")) {
    video.src = state.url;
    video.loop = true;
    video.onerror = () => state.kind === "video" && notice(`${file.name}: cannot be played here.`);
    video.play().catch(() => undefined);
    enter("video");
  } else {
    showPicture(state.url, file.name);
  }
}

function showPicture(address, name) {
  still.src = address;
  still.alt = name;
  still.onerror = () => state.kind === "picture" && notice(`${name}: not a picture.`);
  enter("picture");
}

function showSample(address) {
  leaveSource();
  showPicture(address, "a sample");
}

function useServer() {
  leaveSource();
  still.src = `/live.mjpg?model=${state.settings.model}&from=${Date.now()}`;
  still.alt = "The server's own source";
  still.onerror = () => state.kind === "server" && notice("The server's source has ended.");
  enter("server");
}

// Its pictures come with boxes drawn in: what is known of them is asked for.
async function askFigures() {
  if (state.kind !== "server" || document.hidden) return;
  const { model } = state.settings;
  const answer = await fetch(`/live.json?model=${model}`).catch(() => null);
  const figures = answer?.ok ? await answer.json() : null;
  if (!figures || state.kind !== "server" || model !== state.settings.model) return;
  $("fps").textContent = figures.fps.toFixed(1);
  $("latency").textContent = figures.latency_ms.toFixed(0);
  $("detect").textContent = figures.detect_ms.toFixed(1);
  $("count").textContent = String(figures.count);
}

// ---- showing ----------------------------------------------------------------------------------

function names() {
  return state.models[state.settings?.model ?? 0]?.classes ?? [];
}

function visible() {
  return state.boxes.filter((box) => !state.hidden.has(names()[box[5]]));
}

function show() {
  const boxes = visible();
  const mirrored = frame.classList.contains("mirrored");
  drawBoxes(overlay, { boxes, size: state.size, names: names(), mirrored });
  if (!state.kind || state.kind === "server") return;
  $("count").textContent = String(boxes.length);
  const latency = speed.latency;
  if (latency === null) return;
  $("latency").textContent = latency.toFixed(0);
  $("fps").textContent = state.kind === "picture" ? "–" : speed.rate.toFixed(1);
}

function showSource() {
  const isStill = state.kind === "picture" || state.kind === "server";
  if (state.kind !== "camera") frame.classList.remove("mirrored");
  still.hidden = !isStill;
  video.hidden = isStill;
  $("empty").hidden = state.kind !== null;
  $("stop").hidden = state.kind === null;
  $("camera").setAttribute("aria-pressed", String(state.kind === "camera"));
  $("server-source").setAttribute("aria-pressed", String(state.kind === "server"));
  document.querySelector("label.button").classList.toggle("on", Boolean(state.url));
  // Its boxes are drawn by the server, with the thresholds that it was started with.
  for (const id of ["confidence", "iou"]) $(id).disabled = state.kind === "server";
  showThresholds();
  document.body.dataset.source = state.kind ?? "";
  show();
}

function showModels() {
  $("model-choice").hidden = state.models.length < 2;
  $("models").replaceChildren(...state.models.map((model, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(number === state.settings.model));
    const name = document.createElement("small");
    name.textContent = model.name;
    button.append(model.precision, name);
    button.onclick = () => chooseModel(number);
    return button;
  }));
}

function chooseModel(number) {
  state.settings.model = number;
  speed.clear();
  state.boxes = [];
  showModels();
  showClasses();
  sendSettings();
  if (state.kind === "server") useServer();
}

function showClasses() {
  $("classes").replaceChildren(...names().map((name, id) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(!state.hidden.has(name)));
    const dot = document.createElement("i");
    dot.style.background = classColor(id);
    button.append(dot, name);
    button.onclick = () => {
      if (!state.hidden.delete(name)) state.hidden.add(name);
      showClasses();
      show();
    };
    return button;
  }));
}

function showThresholds() {
  const shown = state.kind === "server" ? state.served : state.settings;
  for (const name of shown ? ["confidence", "iou"] : []) {
    $(name).value = shown[name];
    $(`${name}-value`).textContent = Number($(name).value).toFixed(2);
  }
}

function showConnection(text, ready) {
  $("connection").textContent = text;
  $("connection").classList.toggle("ready", ready);
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text ?? "";
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // Not kept; the choice holds until the page is left.
  }
}

// ---- events -----------------------------------------------------------------------------------

$("camera").onclick = useCamera;
$("server-source").onclick = useServer;
$("stop").onclick = leaveSource;
$("theme").onclick = switchTheme;
$("file").onchange = ({ target }) => {
  if (target.files[0]) useFile(target.files[0]);
  target.value = "";
};
for (const name of ["confidence", "iou"]) {
  $(name).oninput = ({ target }) => {
    state.settings[name] = Number(target.value);
    showThresholds();
    sendSettings();
  };
}
$("all-classes").onclick = () => {
  state.hidden.clear();
  showClasses();
  show();
};
$("no-classes").onclick = () => {
  state.hidden = new Set(names());
  showClasses();
  show();
};
frame.ondragover = (event) => event.preventDefault();
frame.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) useFile(event.dataTransfer.files[0]);
};
new ResizeObserver(() => show()).observe(frame);

// Once per painted picture; nothing is sent from a page that nobody sees.
function tick(now) {
  sendNewest();
  speed.draw($("plot"), now);
  requestAnimationFrame(tick);
}

fitToScreen(overlay);
connect();
requestAnimationFrame(tick);
setInterval(askFigures, FIGURES_MS);

window.demoSocket = () => socket;
// What tests and the curious read: the boxes on the screen, with class names.
window.shownBoxes = () => visible().map((box) => ({
  name: names()[box[5]],
  score: box[4],
  track: box[6],
  box: box.slice(0, 4).map((side, axis) => side / state.size[axis % 2]),
}));
