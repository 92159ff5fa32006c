// Our OHIF extension: the panel of results and the overlay of model results at opening.

import { Overlays } from "./overlays.js";
import { Drawing } from "./drawing.js";
import { mountPanel } from "./panel.js";

export const EXTENSION = "readroom";
export const PANEL = `${EXTENSION}.panelModule.results`;

// A React element made by hand: OHIF bundles its React, and this one `div` is all that we need of it.
function host(mount) {
  return {
    $$typeof: Symbol.for("react.element"),
    type: "div",
    key: null,
    ref: (node) => node && mount(node),
    props: { style: { height: "100%" } },
    _owner: null,
    _store: {},
  };
}

let overlays;

export default {
  id: EXTENSION,

  preRegistration({ servicesManager, commandsManager, extensionManager }) {
    const ohif = { services: servicesManager.services, commandsManager, extensionManager };
    overlays = new Overlays(ohif);
    // For the reading page around us and for tests.
    window.readroom.overlays = overlays;
    window.readroom.drawing = new Drawing(ohif);
  },

  onModeEnter() {
    overlays.start();
  },

  onModeExit() {
    overlays.stop();
  },

  getPanelModule() {
    const component = () => host((node) => mountPanel(node, overlays));
    return [{ name: "results", iconName: "tab-segmentation", iconLabel: "Results", label: "Results", component }];
  },
};
