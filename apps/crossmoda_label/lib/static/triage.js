// The triage page. Everything that it shows comes from /crossmoda/cases and /crossmoda/pictures; a verdict is written by
// the request that 3D Slicer's Reviewer makes. Text is only ever set as text, never as HTML.
"use strict";

const PLANES = ["axial", "coronal", "sagittal"];
const ACROSS = { axial: "sagittal", coronal: "sagittal", sagittal: "coronal" }; // plane whose slices a column stands for
const DOWN = { axial: "coronal", coronal: "axial", sagittal: "axial" }; // the same for a row
const WINDOWS = [["normal", 50, 100], ["soft tissue", 25, 50], ["fluid", 75, 60]];
const POLL_SECONDS = 20, POLL_SECONDS_MEASURING = 3;
const PICTURES_AT_ONCE = 2; // the server draws them; more at once would make a case that is opened wait

const KEYS = {
  a: "approve", f: "flag", 1: "easy", 2: "medium", 3: "hard", c: "comment", u: "undo", n: "next", p: "previous",
  Enter: "open", Escape: "close", o: "contours", w: "window",
  ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right",
};
const JUDGING_HELP = [["A", "approve"], ["F", "flag"], ["1 2 3", "easy, medium, hard"], ["C", "comment"], ["U", "undo"],
  ["N P", "next, previous"]];
const HELP = {
  wall: [...JUDGING_HELP, ["← ↑ ↓ →", "choose"], ["Enter", "open"]],
  case: [...JUDGING_HELP, ["↑ ↓", "slice"], ["← →", "plane"], ["O", "contours"], ["W", "window"], ["Esc", "wall"]],
};

const state = {
  cases: [], colours: {}, selected: null, view: "wall", undo: [],
  signedIn: "", planes: null, index: {}, active: "axial", contours: true, preset: 0, level: WINDOWS[0][1], width: WINDOWS[0][2],
};
const cards = new Map();
const byId = (id) => document.getElementById(id);
const row = (image) => state.cases.find((one) => one.image === image);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text, problem = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("problem", problem);
}

// --- The server ---

async function answerOf(address, options) {
  const answer = await fetch(address, options).catch(() => null);
  if (answer === null) throw new Error("the server does not answer; nothing was written");
  if (answer.status === 401) location.assign("login"); // signed out meanwhile
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const reason = reasonIn(content.detail) || `the server answers ${answer.status}`;
    throw Object.assign(new Error(reason), { status: answer.status });
  }
  return content;
}

function reasonIn(detail) {
  return Array.isArray(detail) ? detail.map((one) => `${one.loc.join(" ")}: ${one.msg}`).join("; ") : detail;
}

const caseAddress = (image) => `cases/${encodeURIComponent(image)}`;

const planesAddress = (one) => `${caseAddress(one.image)}/planes${one.tag ? `?tag=${encodeURIComponent(one.tag)}` : ""}`;

function pictureAddress(one, plane, index) {
  const query = new URLSearchParams({ of: one.label_sha256.slice(0, 16) }); // another label, another address
  if (one.tag) query.set("tag", one.tag);
  const place = `pictures/${encodeURIComponent(one.image)}`;
  if (plane === undefined) return `${place}?${query}`;
  query.set("contours", state.contours);
  query.set("level", state.level);
  query.set("width", state.width);
  return `${place}/${plane}/${index}?${query}`;
}

async function refresh() {
  const answer = await answerOf("cases");
  const open = state.view === "case" ? row(state.selected) : null;
  state.cases = answer.cases;
  state.colours = answer.colours;
  byId("round").textContent = `round ${answer.round}`;
  showSites();
  showLegend();
  showWall();
  const now = open && row(open.image);
  if (open && !now) close();
  else if (open && differs(open, now)) {
    say(`Meanwhile: ${verdictOf(now)}`, true);
    await showCase();
  }
}

async function poll() {
  if (!document.hidden) await refresh().catch((error) => say(error.message, true));
  const measuring = state.cases.some((one) => one.tag && one.volumes_ml === null);
  setTimeout(poll, 1000 * (measuring ? POLL_SECONDS_MEASURING : POLL_SECONDS));
}

// --- What is said of a case ---

const volumesOf = (one) => one.volumes_ml && Object.entries(one.volumes_ml);
const millilitres = (volume) => `${volume.toFixed(volume < 0.1 ? 3 : 2)} mL`;

function volumeText(one) {
  if (!one.tag) return "no label";
  return volumesOf(one) ? volumesOf(one).map(([name, volume]) => `${name} ${millilitres(volume)}`).join(", ") : "…";
}

function verdictOf(one) {
  const when = one.when ? ` on ${one.when.slice(0, 16).replace("T", " ")} UTC` : "";
  const level = one.level ? `, ${one.level}` : "";
  return one.status + level + (one.who ? ` by ${one.who}` : "") + (one.who || one.status !== "open" ? when : "");
}

const uncertaintyText = (one) => (one.uncertainty === null ? "not measured" : one.uncertainty.toFixed(3));
const roundText = (one) => (one.round === null ? "" : `round ${one.round}`);

const differs = (one, other) => one.state !== other.state;

// --- The wall ---

function matches(one) {
  const status = byId("by-status").value, site = byId("by-site").value;
  return (!status || one.status === status) && (!site || one.site === site);
}

// The case in hand stays among those leafed through, also when its new status is filtered out.
const leafed = () => state.cases.filter((one) => matches(one) || (state.view === "case" && one.image === state.selected));

function showSites() {
  const select = byId("by-site"), sites = [...new Set(state.cases.map((one) => one.site))].filter(Boolean).sort();
  const shown = [...select.options].slice(1).map((option) => option.value);
  if (JSON.stringify(sites) === JSON.stringify(shown)) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...sites.map((site) => new Option(site, site)));
  select.value = sites.includes(chosen) ? chosen : "";
}

function showLegend() {
  const names = new Set(state.cases.flatMap((one) => Object.keys(one.volumes_ml ?? {})));
  const entries = Object.entries(state.colours).filter(([name]) => names.has(name));
  byId("legend").replaceChildren(...entries.flatMap(([name, colour]) => {
    const swatch = element("span", "swatch");
    swatch.style.borderTopColor = colour;
    return [swatch, name];
  }));
}

function showWall() {
  const wall = byId("wall"), wanted = state.cases.filter(matches);
  if (!wanted.some((one) => one.image === state.selected) && state.view === "wall") state.selected = neighbour(wanted);
  const known = new Set(state.cases.map((one) => one.image));
  for (const [image, card] of cards) {
    if (known.has(image)) continue;
    card.remove();
    cards.delete(image);
  }
  const shown = wanted.map((one) => showCard(one));
  if (!shown.length) shown.push(element("p", "none", state.cases.length ? "No case has this status and site." : "No cases yet."));
  if (shown.length !== wall.children.length || shown.some((card, place) => wall.children[place] !== card)) {
    wall.replaceChildren(...shown);
  }
  const left = state.cases.filter((one) => one.status === "open").length;
  byId("left").textContent = `${left} of ${state.cases.length} left`;
}

// Where the selected case has left the wall, the one that took its place.
function neighbour(wanted) {
  const order = state.cases.map((one) => one.image), from = order.indexOf(state.selected);
  const after = wanted.find((one) => order.indexOf(one.image) >= from) ?? wanted.at(-1);
  return after ? after.image : null;
}

function showCard(one) {
  const card = cards.get(one.image) ?? newCard(one.image);
  const picture = pictureAddress(one);
  if (card.picture !== picture) {
    card.picture = picture;
    card.querySelector(".picture").replaceChildren("…");
    nearby.unobserve(card); // so that a card in sight is told of again
    nearby.observe(card);
  }
  card.querySelector("strong").textContent = one.case;
  const badge = card.querySelector(".badge");
  badge.textContent = one.status + (one.level ? `, ${one.level}` : "");
  badge.className = `badge ${one.status}`;
  const [facts, volumes, remarks, said] = card.querySelectorAll(".soft");
  facts.textContent = [`uncertainty ${uncertaintyText(one)}`, one.site, roundText(one)].filter(Boolean).join(" · ");
  volumes.textContent = volumeText(one);
  remarks.textContent = one.anatomy.length ? `Check: ${one.anatomy.join("; ")}` : "";
  remarks.hidden = !remarks.textContent;
  said.textContent = [one.who, one.comment].filter(Boolean).join(": ");
  said.hidden = !said.textContent;
  const parts = [one.case, badge, facts, volumes, remarks].map((part) => part.textContent ?? part);
  card.setAttribute("aria-label", parts.filter(Boolean).join(", "));
  card.classList.toggle("selected", one.image === state.selected);
  return card;
}

function newCard(image) {
  const card = element("article", "card"), line = element("div", "line");
  line.append(element("strong"), element("span", "badge"));
  card.append(element("div", "picture"), line, ...Array.from({ length: 4 }, () => element("p", "soft")));
  card.dataset.image = image;
  card.addEventListener("click", () => {
    select(image);
    open();
  });
  cards.set(image, card);
  return card;
}

function select(image) {
  cards.get(state.selected)?.classList.remove("selected");
  state.selected = image;
  const card = cards.get(image);
  if (!card) return;
  card.classList.add("selected");
  card.scrollIntoView({ block: "nearest" });
}

// Pictures are asked for when their card comes near the screen, a few at a time, and not while a case is open.
const waiting = [];
let drawing = 0;
const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const place = waiting.indexOf(entry.target);
    if (place >= 0) waiting.splice(place, 1);
    if (entry.isIntersecting && entry.target.shownPicture !== entry.target.picture) waiting.push(entry.target);
  }
  drawWaiting();
}, { root: byId("wall"), rootMargin: "300px" });

function drawWaiting() {
  while (drawing < PICTURES_AT_ONCE && waiting.length && state.view === "wall") drawCard(waiting.shift());
}

async function drawCard(card) {
  drawing += 1;
  const address = card.picture, picture = new Image();
  picture.alt = "";
  picture.src = address;
  const failed = await picture.decode().then(() => null, () => reasonOf(address));
  if (address === card.picture) {
    card.shownPicture = address;
    card.querySelector(".picture").replaceChildren(failed ? await failed : picture);
  }
  drawing -= 1;
  drawWaiting();
}

// An image's error event does not tell why, so the address is asked again.
async function reasonOf(address) {
  return answerOf(address).then(() => "no picture", (error) => error.message);
}

function columns() {
  return getComputedStyle(byId("wall")).gridTemplateColumns.split(" ").length;
}

// --- One case ---

async function open() {
  if (!state.selected) return;
  state.view = "case";
  byId("wall").hidden = true;
  byId("case").hidden = false;
  showHelp();
  say("");
  await showCase();
}

function close() {
  state.view = "wall";
  byId("case").hidden = true;
  byId("wall").hidden = false;
  showHelp();
  showWall();
  select(state.selected);
  drawWaiting();
}

async function showCase() {
  const one = row(state.selected);
  showFacts(one);
  state.planes = null;
  for (const plane of PLANES) figure(plane).querySelector("img").removeAttribute("src");
  try {
    const planes = await answerOf(planesAddress(one));
    if (state.selected !== one.image || state.view !== "case") return;
    state.planes = planes;
    for (const plane of PLANES) state.index[plane] = planes[plane].middle;
    await showSlices();
    prepare(leafed()[leafed().findIndex((other) => other.image === one.image) + 1]);
  } catch (error) {
    say(error.message, true);
  }
}

// Lets the server read the next case while this one is looked at.
async function prepare(one) {
  if (!one) return;
  const planes = await answerOf(planesAddress(one)).catch(() => ({})); // what is wrong is told when it is opened
  for (const [plane, { middle }] of Object.entries(planes)) new Image().src = pictureAddress(one, plane, middle);
}

function showFacts(one) {
  byId("title").textContent = one.case;
  byId("verdict").replaceChildren(element("span", `badge ${one.status}`, one.status), " ", verdictOf(one).slice(one.status.length).replace(/^, /, ""));
  const facts = [["Uncertainty", uncertaintyText(one)], ["Site", one.site], ["Label", one.tag ?? "none"], ["Round", one.round],
    ...(volumesOf(one) ?? []).map(([name, volume]) => [name, millilitres(volume)]), ["Check", one.anatomy.join("; ")], ["Comment", one.comment]];
  byId("facts").replaceChildren(...facts.filter(([, value]) => value !== "" && value !== null).flatMap(
    ([name, value]) => [element("dt", "", name), element("dd", "", value)]));
}

const figure = (plane) => document.querySelector(`figure[data-plane="${plane}"]`);

function showSlices() {
  const [name] = WINDOWS.find(([, level, width]) => level === state.level && width === state.width) ?? [""];
  byId("window").textContent = `${name || "own"} (${state.level} %, ${state.width} %)`;
  byId("level").value = state.level;
  byId("width").value = state.width;
  return Promise.all(PLANES.map(showSlice));
}

// While a slice is on its way, only the latest wish is remembered, so that leafing fast never falls behind.
async function showSlice(plane) {
  if (!state.planes) return;
  const place = figure(plane), img = place.querySelector("img"), one = row(state.selected);
  const address = pictureAddress(one, plane, state.index[plane]);
  place.querySelector("figcaption").textContent = `${plane} ${state.index[plane] + 1} / ${state.planes[plane].slices}`;
  place.classList.toggle("active", plane === state.active);
  img.alt = `${one.case}, ${plane} slice ${state.index[plane] + 1}`;
  place.wanted = address;
  if (place.loading) return;
  place.loading = true;
  while (img.getAttribute("src") !== place.wanted) {
    const next = new Image(), asked = place.wanted;
    next.src = asked;
    const failed = await next.decode().then(() => null, () => reasonOf(asked));
    if (failed) {
      say(await failed, true);
      break;
    }
    img.src = asked;
  }
  place.loading = false;
}

function leaf(plane, step) {
  if (!state.planes) return;
  state.index[plane] = Math.min(Math.max(state.index[plane] + step, 0), state.planes[plane].slices - 1);
  showSlice(plane);
}

function activate(plane) {
  state.active = plane;
  for (const other of PLANES) figure(other).classList.toggle("active", other === plane);
}

// A click puts the other two planes through the point clicked; columns and rows count against the scan's axes.
function pointAt(plane, event) {
  if (!state.planes) return;
  const img = figure(plane).querySelector("img"), box = img.getBoundingClientRect();
  const scale = Math.min(box.width / img.naturalWidth, box.height / img.naturalHeight);
  const across = (event.clientX - box.left - box.width / 2) / (img.naturalWidth * scale) + 0.5;
  const down = (event.clientY - box.top - box.height / 2) / (img.naturalHeight * scale) + 0.5;
  if (!(across >= 0 && across < 1 && down >= 0 && down < 1)) return;
  for (const [other, part] of [[ACROSS[plane], across], [DOWN[plane], down]]) {
    const { slices } = state.planes[other];
    state.index[other] = slices - 1 - Math.floor(part * slices);
    showSlice(other);
  }
}

function nextWindow() {
  state.preset = (state.preset + 1) % WINDOWS.length;
  [, state.level, state.width] = WINDOWS[state.preset];
  showSlices();
}

// --- Verdicts ---

let last = Promise.resolve();

// One after the other, so that quick keys do not overtake each other.
function inTurn(work) {
  last = last.then(work).catch((error) => say(error.message, true));
  return last;
}

async function readerName(again = false) {
  if (state.signedIn) return state.signedIn;
  let name = localStorage.getItem("crossmoda-reader") ?? "";
  if (!name || again) {
    name = (await ask("Your name, written beside every verdict:", name) ?? "").trim();
    if (name) localStorage.setItem("crossmoda-reader", name);
  }
  showReader();
  return name;
}

// Who has signed in needs to give no name: the server writes it beside what they say.
async function askWho() {
  state.signedIn = (await answerOf("who")).name;
  showReader();
}

async function signOut() {
  await fetch("logout", { method: "POST", redirect: "manual" });
  location.assign("login");
}

function showReader() {
  const name = localStorage.getItem("crossmoda-reader") ?? "who are you?";
  byId("reader").textContent = state.signedIn ? `Sign out ${state.signedIn}` : `Reader: ${name}`;
}

async function judge(image, change) {
  const seen = row(image);
  if (!seen) return;
  if (!seen.tag) return say("There is no label to judge; segment the scan in 3D Slicer first.", true);
  const name = await readerName();
  if (!name) return say("Nothing was written: a verdict needs a name.", true);
  const blank = { status: "", level: "", approvedBy: "", comment: "", editTime: "" };
  const former = seen.segmentationMeta ?? blank;
  const meta = { ...former, ...change, approvedBy: name, editTime: Math.floor(Date.now() / 1000) };
  const written = await write(seen, meta, "Look, then press the key again.");
  if (!written) return;
  const now = row(image);
  state.undo.push({ image, former, written });
  say(`${now.case}: ${verdictOf(now)}`);
}

// The server takes a verdict only if the case is still as its reader saw it; otherwise this shows it and returns null.
async function write(seen, meta, remedy) {
  const query = new URLSearchParams({ label: seen.image, tag: seen.tag });
  const body = new URLSearchParams({ params: JSON.stringify({ segmentationMeta: meta, seen: seen.state }) });
  const written = await answerOf(`../datastore/updatelabelinfo?${query}`, { method: "PUT", body })
    .catch((error) => (error.status === 409 ? null : Promise.reject(error)));
  const now = await answerOf(caseAddress(seen.image));
  put(now);
  if (written) return { ...now, state: written.state }; // what others may have said since then has not been seen
  if (state.view === "case" && state.selected === now.image) await showCase();
  say(`Not written. Meanwhile ${now.case} is ${verdictOf(now)}. ${remedy}`, true);
  return null;
}

// Enters a case's new row and shows it.
function put(now) {
  const place = state.cases.findIndex((one) => one.image === now.image);
  if (place < 0) return;
  const other = state.cases[place].label_sha256 !== now.label_sha256;
  state.cases[place] = now;
  showWall();
  if (state.view === "case" && state.selected === now.image) {
    showFacts(now);
    if (other) showCase();
  }
}

async function undo() {
  const step = state.undo.at(-1);
  if (!step) return say("Nothing to undo.");
  const written = await write(step.written, step.former, "It was not undone.");
  state.undo.pop();
  if (!written) return;
  const now = row(step.image);
  for (const earlier of state.undo) if (earlier.image === now.image) earlier.written = written;
  if (state.view === "wall" && matches(now)) select(now.image);
  say(`Undone. ${now.case}: ${verdictOf(now)}`);
}

async function comment(image) {
  const one = row(image);
  if (!one) return;
  const text = await ask(`Comment on ${one.case}:`, one.comment);
  if (text !== null) await judge(image, { comment: text.trim() });
}

// Resolves to the text entered, or null.
function ask(question, answer) {
  const dialog = byId("ask"), input = byId("answer");
  byId("question").textContent = question;
  input.value = answer;
  dialog.returnValue = "";
  dialog.showModal();
  input.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "accepted" ? input.value : null), { once: true });
  });
}

// --- Keys and mouse ---

function go(step) {
  const list = leafed(), from = list.findIndex((one) => one.image === state.selected);
  const to = list[Math.min(Math.max(from + step, 0), list.length - 1)];
  if (!to) return;
  if (to.image === state.selected) {
    if (state.view === "case") say(step > 0 ? "This is the last case." : "This is the first case.");
    return;
  }
  select(to.image);
  if (state.view === "case") {
    say("");
    showCase();
  }
}

const ANYWHERE = {
  approve: () => inTurnOn((image) => judge(image, { status: "approved" })),
  flag: () => inTurnOn((image) => judge(image, { status: "flagged" })),
  easy: () => inTurnOn((image) => judge(image, { level: "easy" })),
  medium: () => inTurnOn((image) => judge(image, { level: "medium" })),
  hard: () => inTurnOn((image) => judge(image, { level: "hard" })),
  comment: () => inTurnOn(comment),
  undo: () => inTurn(undo),
  next: () => go(1),
  previous: () => go(-1),
};
const COMMANDS = {
  wall: {
    ...ANYWHERE, open, left: () => go(-1), right: () => go(1), up: () => go(-columns()), down: () => go(columns()),
  },
  case: {
    ...ANYWHERE,
    close,
    up: () => leaf(state.active, 1),
    down: () => leaf(state.active, -1),
    left: () => activate(PLANES[(PLANES.indexOf(state.active) + 2) % 3]),
    right: () => activate(PLANES[(PLANES.indexOf(state.active) + 1) % 3]),
    contours: () => {
      state.contours = !state.contours;
      showSlices();
    },
    window: nextWindow,
  },
};

// The case is the one selected when the key was pressed, not when its turn comes.
function inTurnOn(work) {
  const image = state.selected;
  return inTurn(() => work(image));
}

function onKey(event) {
  if (byId("ask").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select")) return;
  if (event.key === "Enter" && event.target.closest("button, a")) return;
  const command = COMMANDS[state.view][KEYS[event.key] ?? KEYS[event.key.toLowerCase()]];
  if (!command) return;
  event.preventDefault();
  command();
}

function showHelp() {
  byId("help").replaceChildren(...HELP[state.view].flatMap(([key, meaning]) => [element("kbd", "", key), meaning]));
}

function start() {
  document.addEventListener("keydown", onKey);
  for (const select of [byId("by-status"), byId("by-site")]) {
    select.addEventListener("change", () => {
      select.blur();
      showWall();
    });
  }
  for (const button of document.querySelectorAll("[data-command]")) {
    button.addEventListener("click", () => {
      button.blur();
      COMMANDS.case[button.dataset.command]();
    });
  }
  for (const plane of PLANES) {
    figure(plane).addEventListener("wheel", (event) => {
      event.preventDefault();
      activate(plane);
      leaf(plane, event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
    figure(plane).addEventListener("click", (event) => {
      activate(plane);
      pointAt(plane, event);
    });
  }
  for (const slider of [byId("level"), byId("width")]) {
    slider.addEventListener("input", () => {
      state[slider.id] = Number(slider.value);
      showSlices();
    });
    slider.addEventListener("change", () => slider.blur());
  }
  const accept = () => byId("ask").close("accepted");
  byId("accept").addEventListener("click", accept);
  byId("cancel").addEventListener("click", () => byId("ask").close(""));
  byId("answer").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    accept();
  });
  byId("reader").addEventListener("click", () => inTurn(state.signedIn ? signOut : () => readerName(true)));
  inTurn(askWho);
  showHelp();
  poll();
}

start();
