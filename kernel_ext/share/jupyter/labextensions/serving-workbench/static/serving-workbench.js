/* Serving Workbench in JupyterLab: a status item, a side panel, a tile in the launcher, commands in the palette.
 *
 * JupyterLab loads this file as it stands; nothing is built. What it shows and does is the REST API of the Jupyter Server
 * extension (serving/api/openapi.json); nothing exists only here. JupyterLab's own classes are those of the page, from
 * its scope of shared modules: another copy's tokens would not be known. Whatever fails here, JupyterLab starts. */
(() => {
  'use strict';

  const NAME = 'serving-workbench';
  // Between two readings: while the panel is open, while only the status item is seen, and after errors at most.
  const [PANEL_MS, ITEM_MS, MAX_WAIT_MS] = [2000, 5000, 60000];
  const LOG_LINES = 200;
  const QUICKSTART = ['01_quickstart.ipynb', 'notebooks/01_quickstart.ipynb'];
  const STYLE = document.currentScript.src.replace(/\.js/, '.css');
  const ICON =
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" ' +
    'd="M3 4h18v6H3zm2 2v2h2V6zm4 0v2h2V6zM3 12h18v6H3zm2 2v2h2v-2zm4 0v2h2v-2zm2 5h2v3h-2z"/></svg>';

  // --- the page's modules ---

  let scope = {};

  async function shared(name) {
    const offered = Object.values(scope[name] || {});
    const found = offered.find(each => each.loaded) || offered[0];
    return found ? (await found.get())() : {}; // Notebook 7 lacks some: what is of them is then left out
  }

  // --- elements: wanted ones are laid over those that are there, so that focus and scrolling stay ---

  const h = (tag, properties = {}, ...children) => ({ tag, properties, children: children.flat().filter(Boolean) });

  function patch(parent, wanted) {
    wanted.forEach(({ tag, properties, children }, index) => {
      const { key = '', text, onclick = null, disabled = false, ...attributes } = properties;
      let node = parent.childNodes[index];
      if (!node || node.localName !== tag || (node.dataset.key || '') !== key) {
        const old = node;
        node = document.createElement(tag);
        if (key) node.dataset.key = key;
        parent.insertBefore(node, old || null);
        old?.remove();
      }
      for (const [name, value] of Object.entries(attributes)) {
        if (node.getAttribute(name) !== value) node.setAttribute(name, value);
      }
      if (node.onclick !== onclick) node.onclick = onclick;
      if ('disabled' in node) node.disabled = disabled;
      if (text === undefined) patch(node, children);
      else if (node.textContent !== text) node.textContent = text;
    });
    while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
  }

  const rate = value => (value == null ? '–' : value >= 100 ? value.toFixed(0) : value.toFixed(1));
  const megabytes = value => (value == null ? '–' : `${Math.round(value / 1e6)} MB`);
  const counted = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;
  const total = (all, number) => all.reduce((sum, each) => (number(each) == null ? sum : (sum || 0) + number(each)), null);

  async function activate(app, launcher, statusBar, palette, restorer) {
    const [{ ServerConnection }, { Widget }, { LabIcon }, { showDialog, Dialog }] = await Promise.all(
      ['@jupyterlab/services', '@lumino/widgets', '@jupyterlab/ui-components', '@jupyterlab/apputils'].map(shared)
    );
    const [settings, icon] = [app.serviceManager.serverSettings, new LabIcon({ name: `${NAME}:icon`, svgstr: ICON })];
    let instances = null; // as last read
    let problem = ''; // why they could not be read
    let [busy, message] = [false, '']; // what a button does, or has done
    let log = null; // { name, text } while one is shown

    async function ask(method, path, body) {
      const init = { method, body: body === undefined ? undefined : JSON.stringify(body) };
      const answer = await ServerConnection.makeRequest(`${settings.baseUrl}serving/api/${path}`, init, settings);
      const text = await answer.text();
      const content = (answer.headers.get('Content-Type') || '').startsWith('application/json') ? JSON.parse(text) : text;
      if (answer.ok) return content;
      throw new Error(content.message || `The Jupyter server answered ${answer.status}.`);
    }
    const at = name => `instances/${encodeURIComponent(name)}`;

    // --- reading: only while somebody sees it, one at a time, later after errors ---

    let [timer, failures, reading] = [0, 0, false];
    const isSeen = () => !document.hidden && (panel.isVisible || item.isVisible);

    function wake(delay = 0) {
      clearTimeout(timer);
      timer = isSeen() ? setTimeout(() => void read(), delay) : 0;
    }

    async function read() {
      if (reading) return;
      reading = true;
      try {
        // Not what a culler of idle Jupyter servers shall take for a person at work.
        instances = (await ask('GET', 'summary?no_track_activity=1')).instances;
        [problem, failures] = ['', 0];
      } catch (error) {
        problem = `The servers cannot be shown: ${error.message} Is serving-workbench enabled in this Jupyter server?`;
        failures += 1;
      } finally {
        reading = false;
      }
      show();
      wake(Math.min((panel.isVisible ? PANEL_MS : ITEM_MS) * 2 ** failures, MAX_WAIT_MS));
    }

    // --- doing: one thing at a time, told in one line ---

    async function act(doing, work) {
      if (busy) return;
      [busy, message] = [true, `${doing} …`];
      show();
      try {
        message = (await work()) || '';
      } catch (error) {
        message = `${doing}: ${error.message}`;
      }
      busy = false;
      show();
      wake();
    }

    const start = name => act(`Starting '${name}'`, async () => (await ask('POST', 'instances', { name }), `'${name}' runs.`));

    const restart = name =>
      act(`Restarting '${name}'`, async () => (await ask('POST', `${at(name)}/restart`), `'${name}' was restarted.`));

    async function stop(name) {
      const asked = await showDialog({
        title: `Stop the server '${name}'?`,
        body: 'Its models answer no more. Their files stay.',
        buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Stop' })]
      });
      if (asked.button.accept) await act(`Stopping '${name}'`, async () => (await ask('DELETE', at(name)), `'${name}' was stopped.`));
    }

    const rollBack = (name, model) =>
      act(`Rolling '${model}' back`, async () => {
        const { version, before } = await ask('POST', `${at(name)}/models/${encodeURIComponent(model)}/rollback`, {});
        return `Version ${version} of '${model}' answers now (before: ${before}).`;
      });

    const showLog = name =>
      act(`Reading the log of '${name}'`, async () => {
        log = log && log.name === name ? null : { name, text: await ask('GET', `${at(name)}/logs?lines=${LOG_LINES}`) };
      });

    async function quickstart() {
      for (const path of QUICKSTART) {
        try {
          await app.serviceManager.contents.get(path, { content: false });
        } catch {
          continue;
        }
        return app.commands.execute('docmanager:open', { path });
      }
      message = `The quickstart (${QUICKSTART[0]}) is not in the folder that Jupyter shows.`;
      open();
      show();
    }

    const open = () => app.shell.activateById(panel.id);

    const button = (text, label, onclick) => h('button', { key: text, type: 'button', text, 'aria-label': label, disabled: busy, onclick });

    function versionRow(version) {
      const labels = version.labels.length ? ` (${version.labels.join(', ')})` : '';
      const share = version.share == null ? '' : ` ${Math.round(100 * version.share)} %`;
      const state = `${version.state}${version.answers ? ' · answers' : ''}${share}`;
      const cells = [state, rate(version.rate), megabytes(version.memory)].map(text => h('td', { text }));
      return h('tr', { class: version.answers ? 'sw-answers' : '' }, h('th', { scope: 'row', text: `${version.version}${labels}` }), cells);
    }

    function modelPart(name, model) {
      const heads = ['Version', 'State', 'Req/s', 'Memory'].map(text => h('th', { scope: 'col', text }));
      const to = model.rollback_to;
      return h('div', { key: model.name },
        h('div', { class: 'sw-row' }, h('h4', { text: model.name }),
          to != null && button(`Roll back to ${to}`, `Roll ${model.name} back to version ${to}`, () => void rollBack(name, model.name))),
        h('table', { 'aria-label': `Versions of ${model.name}` },
          h('thead', {}, h('tr', {}, heads)), h('tbody', {}, model.versions.map(versionRow))),
        model.versions.filter(version => version.trouble).map(version =>
          h('p', { class: 'sw-trouble', text: `Version ${version.version}: ${version.trouble}` })));
    }

    function instancePart(instance) {
      const { name, state } = instance;
      const facts = [state, `${rate(instance.rate)} req/s`, megabytes(instance.memory)];
      const isLog = log !== null && log.name === name;
      return h('section', { key: name, 'aria-label': `Server ${name}` },
        h('h3', { text: name }),
        h('p', { text: facts.join(' · ') }),
        instance.error && h('p', { class: 'sw-trouble', text: instance.error }),
        h('div', { key: 'buttons', class: 'sw-row', role: 'group', 'aria-label': `What to do with ${name}` },
          state === 'failed' ? button('Start', `Start ${name}`, () => void start(name))
            : button('Restart', `Restart ${name}`, () => void restart(name)),
          button('Stop', `Stop ${name}`, () => void stop(name)),
          button(isLog ? 'Hide log' : 'Log', `${isLog ? 'Hide' : 'Show'} the log of ${name}`, () => void showLog(name))),
        isLog && h('pre', { key: 'log', tabindex: '0', role: 'region', 'aria-label': `Log of ${name}`, text: log.text }),
        instance.models.map(model => modelPart(name, model)),
        !instance.models.length && state === 'running' && h('p', { text: 'It serves no model yet.' }));
    }

    function show() {
      const known = problem ? [] : instances || [];
      startButton.disabled = busy;
      status.textContent = message;
      const hint = 'No server runs. In a notebook, %load_ext serving_workbench and then %serve model start one.';
      patch(list, [
        problem && h('p', { key: 'problem', class: 'sw-trouble', text: problem }),
        !problem && instances && !known.length && h('p', { key: 'none', text: hint }),
        ...known.map(instancePart)
      ].filter(Boolean));
      const running = known.filter(each => each.state === 'running');
      const models = total(running, each => each.models.length);
      const other = known.length > running.length ? known.find(each => each.state !== 'running').state : '';
      const parts = running.length ? [counted(models, 'model'), `${rate(total(running, each => each.rate))} req/s`] : [];
      const text = [...parts, other].filter(Boolean).join(' · ') || (problem ? 'unknown' : instances ? 'off' : '…');
      itemButton.textContent = `Serving: ${text}`;
      itemButton.setAttribute('aria-label', `Serving: ${text}. Open the panel`);
    }

    class Watched extends Widget {
      onAfterAttach() { wake(); }
      onAfterShow() { wake(); }
      onAfterHide() { wake(ITEM_MS); }
    }

    const panel = new Watched();
    panel.id = `${NAME}-panel`;
    panel.addClass('sw-lab');
    panel.title.icon = icon;
    panel.title.caption = 'Serving Workbench';
    panel.node.setAttribute('role', 'region');
    panel.node.setAttribute('aria-label', 'Serving Workbench');
    patch(panel.node, [
      h('link', { rel: 'stylesheet', href: STYLE }),
      h('h2', { text: 'Serving Workbench' }),
      h('form', { 'aria-label': 'Start a server' },
        h('input', { type: 'text', value: 'default', 'aria-label': 'Name of the server to start', spellcheck: 'false' }),
        h('button', { type: 'submit', text: 'Start a server' })),
      h('p', { role: 'status' }),
      h('div')
    ]);
    const [, , form, status, list] = panel.node.children;
    const [nameInput, startButton] = form.children;
    form.addEventListener('submit', event => {
      event.preventDefault();
      void start(nameInput.value.trim() || 'default');
    });
    const item = new Watched();
    patch(item.node, [h('button', { type: 'button', class: 'sw-lab-item', title: 'Open the panel of Serving Workbench', onclick: open })]);
    const itemButton = item.node.firstChild;

    const commands = [
      ['open', 'Serving Workbench', 'Show the servers and their models', open],
      ['start', 'Start a Serving Process', "Start the server 'default', without models", () => (open(), start('default'))],
      ['quickstart', 'Open the Serving Quickstart', 'Open the notebook 01_quickstart.ipynb', quickstart]
    ];
    for (const [verb, label, caption, execute] of commands) {
      app.commands.addCommand(`${NAME}:${verb}`, { label, caption, execute, icon });
      palette?.addItem({ command: `${NAME}:${verb}`, category: 'Serving Workbench' });
    }
    launcher?.add({ command: `${NAME}:open`, category: 'Other', rank: 90 });
    app.shell.add(panel, 'left', { rank: 800 });
    restorer?.add(panel, panel.id);
    statusBar?.registerStatusItem(`${NAME}:status`, { item, align: 'left', rank: 90 });
    document.addEventListener('visibilitychange', () => wake());
    show();
    wake();
  }

  async function plugins() {
    const [launcher, statusBar, apputils, application] = await Promise.all(
      ['@jupyterlab/launcher', '@jupyterlab/statusbar', '@jupyterlab/apputils', '@jupyterlab/application'].map(shared)
    );
    const tokens = [launcher.ILauncher, statusBar.IStatusBar, apputils.ICommandPalette, application.ILayoutRestorer];
    const present = tokens.filter(Boolean);
    return [{
      id: `${NAME}:plugin`,
      description: "Status and control of Serving Workbench's servers.",
      autoStart: true,
      optional: present,
      activate: (app, ...services) => {
        const given = tokens.map(token => (token ? services[present.indexOf(token)] : null));
        // Not awaited: JupyterLab does not wait for it, and starts whatever becomes of it.
        activate(app, ...given).catch(error => console.warn(`${NAME}: not shown: ${error}`));
      }
    }];
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB[NAME] = {
    init: given => { scope = given; },
    get: async () => {
      const found = await plugins().catch(error => (console.warn(`${NAME}: not loaded: ${error}`), []));
      return () => ({ __esModule: true, default: found });
    }
  };
})();
