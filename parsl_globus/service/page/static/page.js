// Everything here is an addition: without it, the pages show the same, as of when they were loaded.
"use strict";

// Times in the browser's own zone, with the whole of it on hover.
function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    const today = new Date().toDateString() === moment.toDateString();
    element.title = moment.toString();
    const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
    if (element.classList.contains("precise")) clock.fractionalSecondDigits = 3;
    const day = { year: "numeric", month: "short", day: "numeric" };
    element.textContent = today ? moment.toLocaleTimeString([], clock) : moment.toLocaleString([], { ...day, ...clock });
  }
}

// Pages follow what happens: each event has elements by their ids, as the server drew them.
function follow(address) {
  const sign = document.getElementById("live");
  let source = null;
  const say = (state) => {
    sign.hidden = false;
    sign.className = "live " + state;
    sign.textContent = state === "on" ? "live" : "not live";
  };
  const open = () => {
    source = new EventSource(address);
    source.onopen = () => say("on");
    source.onerror = () => say("off");
    source.addEventListener("ended", () => location.reload());
    source.onmessage = (event) => {
      for (const [id, html] of Object.entries(JSON.parse(event.data))) {
        const old = document.getElementById(id);
        if (!old) continue;
        const made = document.createElement("template");
        made.innerHTML = html.trim();
        localTimes(made.content);
        mendLinks(made.content);
        old.replaceWith(made.content);
      }
    };
  };
  // A hidden page needs no connection, of which browsers have few.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) {
      source.close();
      source = null;
    } else if (!document.hidden && !source) {
      open();
    }
  });
  if (!document.hidden) open();
}

// The link to older tasks keeps the search.
function mendLinks(root) {
  const older = root.querySelector("#older");
  if (!older) return;
  const query = new URLSearchParams(location.search);
  query.set("before", new URLSearchParams(older.getAttribute("href").slice(1)).get("before"));
  older.setAttribute("href", "/tasks?" + query);
}

// A one-time link has its code behind the #, which no server and no log ever sees. It is not used without a click:
// whoever sends somebody such a link would have him logged in as someone else.
function offerCode() {
  const form = document.getElementById("by-code");
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (!form || !code) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.code.value = code;
  form.hidden = false;
  form.querySelector("button").focus();
}

localTimes(document);
mendLinks(document);
offerCode();
addEventListener("hashchange", offerCode);
if (document.body.dataset.events) follow(document.body.dataset.events);
