// Opens a report in headless Chromium and uses it as a reader would: choose, click, slide, press keys, at desktop
// and phone width. Speaks the DevTools protocol over a pipe, so it needs node and the browser and nothing else.
//
//   node tests/browser/report.mjs REPORT.html SCREENSHOT_FOLDER        (BROWSER names the program)

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [report, folder] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "nestgen-browser-"));
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
  "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"];
const browser = spawn(process.env.BROWSER ?? "chromium", flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });

// Messages are JSON texts that end with a zero byte.
const waiting = new Map(), listeners = [];
let next = 1, received = "";
browser.stdio[4].setEncoding("utf8").on("data", (text) => {
  const parts = (received + text).split("\0");
  received = parts.pop();
  for (const message of parts.map((part) => JSON.parse(part))) {
    if (message.id) {
      const { resolve, reject } = waiting.get(message.id);
      message.error ? reject(new Error(message.error.message)) : resolve(message.result);
    } else listeners.forEach((listener) => listener(message));
  }
});
function send(method, params = {}, sessionId = undefined) {
  const id = next++;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

const failures = [];
function check(holds, what) {
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
  if (!holds) failures.push(what);
}

async function main() {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  const problems = [], requests = [];
  listeners.push(({ method, params }) => {
    if (method === "Runtime.exceptionThrown") problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === "Log.entryAdded" && params.entry.level === "error") problems.push(params.entry.text);
    if (method === "Network.requestWillBeSent") requests.push(params.request.url);
  });
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await page(`${domain}.enable`);
  const value = async (expression) => {
    const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  };
  const settle = () => value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
  const open = async (width, height, dark) => {
    await page("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 500 });
    await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
    const loaded = new Promise((done) => listeners.push(({ method }) => method === "Page.loadEventFired" && done()));
    await page("Page.navigate", { url: pathToFileURL(resolve(report)).href });
    await loaded;
    await settle();
  };
  const screenshot = async (name) => {
    const { data } = await page("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
    writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
  };
  const box = (selector) => value(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.scrollIntoView({ block: "center" });
    const r = e.getBoundingClientRect(); return { x: r.x, y: r.y, width: r.width, height: r.height }; })()`);
  const click = async (selector, share = 0.5) => {
    const { x, y, width, height } = await box(selector);
    const at = { x: x + width * share, y: y + height / 2 };
    await page("Input.dispatchMouseEvent", { type: "mouseMoved", ...at });
    await page("Input.dispatchMouseEvent", { type: "mousePressed", ...at, button: "left", clickCount: 1 });
    await page("Input.dispatchMouseEvent", { type: "mouseReleased", ...at, button: "left", clickCount: 1 });
    await settle();
  };
  const press = async (key, code) => {
    for (const type of ["keyDown", "keyUp"]) await page("Input.dispatchKeyEvent", { type, key, code: key, windowsVirtualKeyCode: code });
    await settle();
  };
  const choose = (id, choice) => value(`(() => { const s = document.getElementById("${id}"); s.value = "${choice}"; s.dispatchEvent(new Event("change")); })()`);

  await open(1200, 900, false);
  check(await value("document.querySelectorAll('#chart polyline').length") === 2, "a curve for each of two arms");
  check(await value("document.querySelectorAll('#chart polygon').length") === 2, "a band for each of two arms");
  check(await value("document.getElementById('headline').textContent.length > 40"), "the result is said in words");
  check(await value("document.querySelectorAll('#summary tbody tr').length") === 2, "the summary has a row for each arm");
  await screenshot("desktop");

  const before = await value("document.querySelector('#chart polyline').getAttribute('points')");
  await click("#log-y");
  check(await value("document.querySelector('#chart polyline').getAttribute('points')") !== before, "a click on log y changes the curves");
  await click("#seeds");
  check(await value("document.querySelectorAll('#chart polyline').length") === 8, "a click on every seed draws three runs an arm as well");
  await choose("axis", "flops");
  check(await value("document.getElementById('chart').dataset.axis") === "flops", "x can be FLOPs");
  check(await value("document.querySelector('#summary th:nth-child(6)').textContent.startsWith('flops')"), "the tables follow the choice of x");
  await choose("quantity", "Loss/D");
  check(await value("document.querySelectorAll('#chart polyline').length") === 8, "losses can be plotted");
  await choose("quantity", "");
  await click("#chart svg", 0.6);
  check(await value("document.querySelectorAll('#readout b').length") === 2, "pointing reads a value for each arm");
  const read = await value("document.getElementById('readout').textContent");
  await value("document.querySelector('#chart svg').focus()");
  await press("ArrowRight", 39);
  check(await value("document.getElementById('readout').textContent") !== read, "an arrow key moves to the next value");

  // One seed's KID may be below zero where the means are not: on a logarithmic axis it lies on the lower edge.
  const below = `(() => {
    const box = document.body.appendChild(document.createElement("div"));
    const s = { name: "a", color: "red", curve: [[1, 0.5, 0.6], [2, 0.05, 0.06], [3, 0.01, 0.02]], runs: [[[1, 0.5], [2, 0.1], [3, -0.01]]] };
    drawChart(box, [s], { logY: true, xLabel: "x", yLabel: "y", onCursor: () => {} });
    const points = [...box.querySelectorAll("polyline, polygon")].map((line) => line.getAttribute("points"));
    box.remove();
    return points;
  })()`;
  const numbers = (await value(below)).map((points) => points.split(/[ ,]/).map(Number));
  check(numbers.length === 3 && numbers.flat().every(Number.isFinite), "a score below zero leaves a logarithmic axis whole");
  const heights = numbers[1].filter((_, i) => i % 2);
  check(heights[2] === Math.max(...numbers.flatMap((line) => line.filter((_, i) => i % 2))), "and lies on its edge");

  const picture = () => value("document.querySelector('#grids img').src.length + document.querySelector('#grids img').alt");
  const last = await picture(), lastText = await value("document.getElementById('kimg-text').value");
  await click("#kimg", 0.1);
  check(await picture() !== last, "sliding changes the sample grids");
  check(await value("document.getElementById('kimg-text').value") !== lastText, "sliding changes the time shown");
  const slid = await picture();
  await press("ArrowRight", 39);
  check(await picture() !== slid, "an arrow key moves the slider");
  await click("#earlier");
  check(await picture() === slid, "the button goes back");
  check(await value("document.querySelectorAll('#grids img').length") === 2, "both arms are side by side");
  check(await value("[...document.querySelectorAll('#interpolations img, #neighbours img')].length") === 4, "strips and neighbours of both arms");

  for (const dark of [false, true]) {
    await open(360, 780, dark);
    const name = dark ? "phone-dark" : "phone";
    check(await value("document.documentElement.scrollWidth <= 360"), `${name}: nothing is wider than the screen`);
    check(await value("document.querySelector('#chart svg').getBoundingClientRect().width <= 336"), `${name}: the chart fits`);
    await screenshot(name);
  }
  check(problems.length === 0, `no errors on the page ${problems.join("; ")}`);
  const foreign = requests.filter((url) => !url.startsWith("file:") && !url.startsWith("data:"));
  check(foreign.length === 0, `nothing is fetched ${foreign.join(" ")}`);
}

try {
  await main();
} catch (error) {
  failures.push(error.stack);
  console.log(error.stack);
}
await Promise.race([send("Browser.close"), new Promise((done) => setTimeout(done, 2000))]).catch(() => {});
browser.kill();
await new Promise((done) => (browser.exitCode !== null || browser.signalCode !== null ? done() : browser.once("exit", done)));
try {
  rmSync(profile, { recursive: true, force: true, maxRetries: 20 });
} catch (error) {
  // Helper processes of the browser outlive it for a moment and still write there; that is not the page's fault.
  console.log(`left behind: ${error.message}`);
}
console.log(failures.length ? `${failures.length} failed` : "all checks passed");
process.exit(failures.length ? 1 : 0);
