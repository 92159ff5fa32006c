// Sent as the second half of app-config.js, after `window.readroom = {…}`: a classic script that runs before OHIF.
(() => {
  const facts = window.readroom;

  // STOW goes by XMLHttpRequest, which OHIF's authentication headers do not reach; Django wants the token on it.
  const cookie = (name) =>
    document.cookie.split("; ").find((pair) => pair.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
  const { open, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    const sameOrigin = new URL(url, location.href).origin === location.origin;
    this.readroomUnsafe = sameOrigin && !["GET", "HEAD", "OPTIONS"].includes(String(method).toUpperCase());
    return open.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (body) {
    if (this.readroomUnsafe) this.setRequestHeader("X-CSRFToken", cookie(facts.csrfCookie));
    return send.call(this, body);
  };

  // OHIF's header lays its three parts over each other in a narrow window.
  const narrow = window.innerWidth < 800;
  if (narrow) {
    const style = document.createElement("style");
    style.textContent = '[data-cy="undo-btn"], [data-cy="redo-btn"] { display: none !important; }';
    document.head.append(style);
  }

  let leaving = false;
  function signIn() {
    if (leaving) return;
    leaving = true;
    // In a reading page the page around us knows what is not saved yet, and asks.
    if (window.parent !== window) return window.parent.dispatchEvent(new Event("readroom:signedout"));
    location.assign(`${facts.login}?next=${encodeURIComponent(location.pathname + location.search)}`);
  }

  window.config = {
    name: "readroom",
    routerBasename: facts.base,
    extensions: [`${facts.modules}extension.js`],
    modes: [`${facts.modules}mode.js`],
    customizationService: {
      global: {
        // Classic binary SEG without compression, which every PACS reads.
        "segmentation.store.defaultMode": { $set: "bitmap" },
        "segmentation.store.transferSyntaxUID": { $set: "1.2.840.10008.1.2.1" },
        // OHIF fails on what a report says of an image as a whole; without a place nothing is drawn.
        onBeforeSRAddMeasurement: {
          $set: ({ measurement }) => (measurement.coords?.length ? measurement : { ...measurement, coords: [{}] }),
        },
      },
    },
    showStudyList: false,
    showPatientInfo: facts.kind === "task" || narrow ? "disabled" : "visibleCollapsed",
    showWarningMessageForCrossOrigin: false,
    showCPUFallbackMessage: false,
    showLoadingIndicator: true,
    showErrorDetails: "production",
    strictZSpacingForVolumeViewport: true,
    disableConfirmationPrompts: true,
    investigationalUseDialog: { option: "never" }, // our panel says it, all the time
    maxNumberOfWebWorkers: Math.max(1, Math.min(3, (navigator.hardwareConcurrency ?? 2) - 1)),
    maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 10 },
    defaultDataSourceName: "readroom",
    dataSources: [
      {
        namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
        sourceName: "readroom",
        configuration: {
          friendlyName: "Readroom",
          name: "readroom",
          wadoUriRoot: facts.dicomwebRoot,
          qidoRoot: facts.dicomwebRoot,
          wadoRoot: facts.dicomwebRoot,
          qidoSupportsIncludeField: true,
          supportsFuzzyMatching: true,
          supportsWildcard: true,
          supportsReject: false,
          imageRendering: "wadors",
          thumbnailRendering: "wadors",
          enableStudyLazyLoad: true,
          singlepart: "bulkdata,video",
          bulkDataURI: { enabled: true, relativeResolution: "studies" },
          omitQuotationForMultipartRequest: true,
        },
      },
    ],
    httpErrorHandler: (error) => {
      if (error.status === 401 || error.request?.status === 401) signIn();
    },
    whiteLabeling: {
      createLogoComponentFn: (React) =>
        React.createElement(
          "a",
          { href: facts.home, target: "_top", className: "text-highlight text-lg font-semibold px-2", title: facts.homeTitle },
          facts.kind === "task" ? "" : "Readroom",
        ),
    },
  };
})();
