"use strict";
// Texts come from documents: they are set as text nodes, never as HTML.
const by = (id) => document.getElementById(id);
const fields = ["query", "mode", "where", "k"];
let token = sessionStorage.getItem("token");
let wait, latest = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// A paragraph with the query's words marked. Positions count code points, as Python's do.
function marked(text, marks) {
  const points = Array.from(text), out = element("p", "text", "");
  let at = 0;
  for (const [start, end] of marks) {
    if (start < at) continue;
    out.append(points.slice(at, start).join(""), element("mark", "", points.slice(start, end).join("")));
    at = end;
  }
  out.append(points.slice(at).join(""));
  return out;
}

function item(hit) {
  const li = document.createElement("li");
  li.tabIndex = 0;
  const title = [hit.title, hit.heading].filter(Boolean).join(" › ");
  li.append(element("span", "score", hit.score.toFixed(3)), element("div", "title", title || hit.path));
  const short = marked(hit.snippet, hit.marks), whole = element("p", "text whole", hit.text);
  whole.hidden = true;
  li.append(short, whole, element("div", "place", hit.where));
  const columns = Object.entries(hit.columns).map(([name, value]) => `${name}: ${value}`);
  if (columns.length) li.append(element("div", "more", columns.join(" · ")));
  if (hit.more.length) li.append(element("div", "more", `also ${hit.more.join(", ")}`));
  li.toggle = () => { whole.hidden = !whole.hidden; short.hidden = !whole.hidden; };
  li.addEventListener("dblclick", li.toggle);
  return li;
}

function say(text, error = false) {
  by("status").textContent = text;
  by("status").classList.toggle("error", error);
}

async function search() {
  const number = ++latest, query = by("query").value.trim();
  const values = new URLSearchParams(fields.map((name) => [name, by(name).value]).filter(([, v]) => v));
  history.replaceState(null, "", query ? `#${values}` : location.pathname);
  if (!query) { by("hits").replaceChildren(); say(""); return; }
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(`search?${values}`, { headers });
    const answer = await response.json();
    if (number !== latest) return; // a newer query is under way
    if (response.status === 401) {
      token = prompt("Token of this server");
      if (token) { sessionStorage.setItem("token", token); return search(); }
    }
    if (!response.ok) throw new Error(answer.error.message);
    by("hits").replaceChildren(...answer.hits.map(item));
    const count = answer.hits.length;
    say(count ? `${count} results in ${(answer.seconds * 1000).toFixed(1)} ms` : "nothing found");
  } catch (error) {
    if (number === latest) { by("hits").replaceChildren(); say(error.message, true); }
  }
}

function soon() { clearTimeout(wait); wait = setTimeout(search, 120); }

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select"), hits = [...by("hits").children];
  const at = hits.indexOf(document.activeElement);
  if (event.key === "/" && !typing) by("query").select();
  else if (event.key === "Escape") by("query").select();
  else if (event.key === "ArrowDown" && hits.length && !event.target.matches("select, #k")) hits[Math.min(at + 1, hits.length - 1)].focus();
  else if (event.key === "ArrowUp" && at >= 0) (hits[at - 1] || by("query")).focus();
  else if (event.key === "Enter" && at >= 0) hits[at].toggle();
  else return;
  event.preventDefault();
});
by("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
for (const name of fields) by(name).addEventListener("input", soon);
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) if (fields.includes(name)) by(name).value = value;
search();
