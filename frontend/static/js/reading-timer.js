// Seconds of work at this case: they count while the window is seen and was used within the last minute.

const IDLE_SECONDS = 60;
const EVENTS = ["pointerdown", "pointermove", "keydown", "wheel"];

export class Timer {
  constructor(node, seconds) {
    this.node = node;
    this.seconds = seconds;
    this.used = performance.now();
    this.watch(window);
    setInterval(() => this.tick(), 1000);
    this.show();
  }

  watch(view) {
    for (const event of EVENTS) view.addEventListener(event, () => (this.used = performance.now()), { passive: true, capture: true });
  }

  tick() {
    if (document.hidden || performance.now() - this.used > IDLE_SECONDS * 1000) return;
    this.seconds += 1;
    this.show();
  }

  show() {
    const minutes = Math.floor(this.seconds / 60);
    this.node.textContent = `${minutes}:${String(this.seconds % 60).padStart(2, "0")}`;
  }
}
