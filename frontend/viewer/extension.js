// Our OHIF extension: the panel of results, the overlay of model results at opening, maps over the images, reports.

import { Overlays } from "./overlays.js";
import { Drawing } from "./drawing.js";
import { HeatMaps } from "./maps.js";
import { mountPanel } from "./panel.js";
import { Reports } from "./reports.js";

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
let maps;
let reports;

export default {
  id: EXTENSION,

  preRegistration({ servicesManager, commandsManager, extensionManager }) {
    const ohif = { services: servicesManager.services, commandsManager, extensionManager };
    overlays = new Overlays(ohif);
    // For the reading page around us and for tests.
    window.readroom.overlays = overlays;
    maps = window.readroom.maps = new HeatMaps(ohif, overlays);
    reports = window.readroom.reports = new Reports(ohif, overlays);
    window.readroom.drawing = new Drawing(ohif);
  },

  onModeEnter() {
    overlays.start();
    maps.start();
    reports.start();
  },

  onModeExit() {
    overlays.stop();
    maps.stop();
    reports.stop();
  },

  getPanelModule() {
    const component = () => host((node) => mountPanel(node, overlays, maps, reports));
    return [{ name: "results", iconName: "tab-segmentation", iconLabel: "Results", label: "Results", component }];
  },
};
