// Sections become tabs. Arrow keys, Home and End move between them; the address remembers which is open.

function startTabs() {
  const list = document.getElementById("tabs");
  const tabs = [...list.querySelectorAll("a")];
  const panelOf = (tab) => document.getElementById(tab.hash.slice(1));

  function open(chosen, focus) {
    for (const tab of tabs) {
      const here = tab === chosen;
      tab.setAttribute("aria-selected", String(here));
      tab.tabIndex = here ? 0 : -1;
      panelOf(tab).hidden = !here;
    }
    if (focus) chosen.focus();
  }

  function openAddressed() {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const panel = target && target.closest(".panel");
    open(tabs.find((tab) => panelOf(tab) === panel) || tabs[0], false);
  }

  function goTo(tab, focus) {
    open(tab, focus);
    history.replaceState(null, "", tab.hash);
  }

  list.setAttribute("role", "tablist");
  for (const tab of tabs) {
    const panel = panelOf(tab);
    tab.id = `${panel.id}-tab`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      goTo(tab, true);
    });
  }
  list.addEventListener("keydown", (event) => {
    const here = tabs.indexOf(document.activeElement);
    const steps = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: tabs.length - 1 };
    if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === " ") {
      event.preventDefault();
      goTo(tabs[here], true);
    } else if (event.key in steps) {
      event.preventDefault();
      goTo(tabs[(steps[event.key] + tabs.length) % tabs.length], true);
    }
  });
  document.body.classList.add("tabbed");
  addEventListener("hashchange", openAddressed);
  openAddressed();
}
