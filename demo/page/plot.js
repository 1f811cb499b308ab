// Latency and rate of the last half minute.
import { fitToScreen } from "/boxes.js";

const SPAN_MS = 30_000;
const RATE_MS = 2_000;

export class Speed {
  #times = [];

  add(now, latency) {
    this.#times.push({ now, latency, rate: 0 });
    const recent = this.#times.filter((each) => now - each.now <= RATE_MS);
    const span = now - recent[0].now;
    this.#times.at(-1).rate = span > 0 ? ((recent.length - 1) * 1000) / span : 0;
    while (now - this.#times[0].now > SPAN_MS) this.#times.shift();
  }

  clear() {
    this.#times = [];
  }

  get rate() {
    return this.#times.at(-1)?.rate ?? 0;
  }

  // Median of the last second: single figures are too nervous to be read.
  get latency() {
    const last = this.#times.at(-1);
    if (!last) return null;
    const recent = this.#times.filter((each) => last.now - each.now < 1000);
    return recent.map((each) => each.latency).sort((a, b) => a - b)[recent.length >> 1];
  }

  draw(canvas, now) {
    const pen = fitToScreen(canvas);
    const style = getComputedStyle(document.documentElement);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const line = (color) => style.getPropertyValue(color);
    pen.font = "11px system-ui, sans-serif";
    pen.strokeStyle = line("--line");
    pen.strokeRect(0.5, 0.5, width - 1, height - 1);
    const curve = (value, color, textAlign, unit) => {
      if (!this.#times.length) return;
      const largest = niceCeiling(Math.max(...this.#times.map(value)));
      pen.fillStyle = pen.strokeStyle = line(color);
      pen.textAlign = textAlign;
      pen.textBaseline = "top";
      pen.fillText(`${largest} ${unit}`, textAlign === "left" ? 5 : width - 5, 4);
      pen.beginPath();
      for (const each of this.#times) {
        pen.lineTo(
          width * (1 - (now - each.now) / SPAN_MS),
          height - 3 - ((height - 22) * value(each)) / largest,
        );
      }
      pen.lineWidth = 1.5;
      pen.stroke();
    };
    curve((each) => each.latency, "--accent", "left", "ms");
    curve((each) => each.rate, "--second", "right", "/s");
  }
}

// The next of 1, 2, 5, 10, 20, 50, ...
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? 10;
}
