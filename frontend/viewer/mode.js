// Our OHIF mode: the basic one with our panel; in a reading task without panel, with the drawing tools in the bar.

import { PANEL } from "./extension.js";

const TASK = window.readroom.kind === "task";
const NARROW = window.innerWidth < 800;

// OHIF's own brush buttons live in its segmentation panel, which a reading task does not show.
const DRAWING_BUTTONS = [
  ["Brush", "CircularBrush", "icon-tool-brush"],
  ["Eraser", "CircularEraser", "icon-tool-eraser"],
].map(([label, toolName, icon]) => ({
  id: `Readroom${label}`,
  uiType: "ohif.toolButton",
  props: {
    icon,
    label,
    tooltip: label,
    commands: { commandName: "setToolActiveToolbar", commandOptions: { toolName } },
    evaluate: { name: "evaluate.cornerstone.segmentation", toolNames: [toolName], disabledText: "Nothing to draw here" },
  },
}));

const DRAWING = DRAWING_BUTTONS.map((button) => button.id);
const BAR = {
  task: ["WindowLevel", "Pan", "Zoom", ...DRAWING, "MeasurementTools", "Layout", "Crosshairs", "MoreTools"],
  taskNarrow: ["WindowLevel", "Zoom", ...DRAWING],
  studyNarrow: ["WindowLevel", "Zoom", "Pan"],
};

function bar() {
  if (TASK) return [{ primary: NARROW ? BAR.taskNarrow : BAR.task }];
  return NARROW ? [{ primary: BAR.studyNarrow }] : [];
}

function layout(base) {
  const made = base.routes[0].layoutTemplate.call(base.routes[0]);
  made.props.leftPanelInitialExpandedWidth = TASK ? 150 : 220;
  if (TASK) {
    made.props.rightPanels = [];
    made.props.leftPanelClosed = true;
  } else {
    made.props.rightPanels = [PANEL, ...made.props.rightPanels];
    made.props.rightPanelClosed = NARROW;
    made.props.rightPanelInitialExpandedWidth = 300;
  }
  if (NARROW) made.props.leftPanelClosed = true;
  return made;
}

async function modeFactory({ loadModules }) {
  const [basic] = await loadModules(["@ohif/mode-basic"]);
  const base = basic.modeInstance;
  const drawing = { $reference: "cornerstone.segmentationTools" };
  return {
    ...base,
    id: "readroom",
    routeName: "readroom",
    displayName: "Readroom",
    hide: false,
    toolbarButtons: [
      { $reference: "cornerstone.toolbarButtons" },
      { $reference: "cornerstone.segmentationToolbarButtons" },
      ...(TASK ? DRAWING_BUTTONS : []),
    ],
    toolbarSections: [
      { $reference: "cornerstone.toolbarSections" },
      { $reference: "cornerstone.segmentationToolbarSections" },
      ...bar(),
    ],
    toolGroupAdditions: { ...base.toolGroupAdditions, default: [drawing], mpr: [drawing] },
    modeCustomizations: TASK ? "readroomReadingCustomizations" : "basicModeCustomizations",
    // Our own extension must not be listed here: OHIF would import it by this name and the route would die.
    extensions: base.extensions,
    routes: [{ ...base.routes[0], path: "readroom", layoutTemplate: () => layout(base) }],
    // Derived series alone are no reason to refuse a study.
    isValidMode: () => ({ valid: true, description: "" }),
  };
}

export default {
  id: "readroom",
  modeFactory,
  extensionDependencies: {},
  customizations: { readroomReadingCustomizations: { "panelSegmentation.disableEditing": false } },
};
