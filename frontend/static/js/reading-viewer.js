// OHIF in the frame beside the panel: wait until it runs and hand over what our extension offers there.

const PATIENCE = 120000;

export async function openViewer(frame) {
  const end = performance.now() + PATIENCE;
  while (performance.now() < end) {
    const readroom = frame.contentWindow?.readroom;
    if (readroom?.drawing && readroom.overlays?.started) return readroom;
    const status = frame.contentDocument?.querySelector(".note.failure");
    if (status) throw new Error("The viewer is not installed on this server.");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("The viewer did not start within two minutes.");
}
