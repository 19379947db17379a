"""How the page of `GET /docs` looks: its HTML, for Jinja with escaping on, with its style sheet."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1d2330; --quiet: #5d6678; --page: #fdfdfc; --panel: #f3f4f2; --line: #dfe2de;
  --link: #0b5cad; --post: #1a7f4b; --get: #3563c9;
  --code: ui-monospace, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e4e7ee; --quiet: #9aa4b6; --page: #14171d; --panel: #1c2129; --line: #2d343f;
    --link: #7db7ff; --post: #5ccb93; --get: #8fb0ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 6rem;
  background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif;
}
h1 { margin: 0; font-size: 2rem; letter-spacing: -.02em; }
h1 small { color: var(--quiet); font: 1rem var(--code); letter-spacing: 0; }
h2 {
  margin: 3.5rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line);
  font: 600 1.15rem var(--code); overflow-wrap: anywhere;
}
h3 { margin: 1.75rem 0 .4rem; font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; color: var(--quiet); }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
code, pre { font: .88em/1.5 var(--code); overflow-wrap: anywhere; }
pre { margin: 0; padding: .9rem 1.1rem; background: var(--panel); border-radius: .5rem; white-space: pre-wrap; }
ul { padding-left: 0; list-style: none; }
nav ul { margin: 1.5rem 0 0; columns: 20rem; font: .9rem/1.7 var(--code); }
.method { display: inline-block; min-width: 3.2rem; font-weight: 700; color: var(--get); }
.POST { color: var(--post); }
.table { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
th, td { padding: .45rem .9rem .45rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); }
td:first-child code { overflow-wrap: normal; }
td:last-child { min-width: 14rem; }
@media (max-width: 40rem) {
  thead { display: none; }
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line); }
  td { display: block; padding: 0; border: 0; }
  td:nth-child(3) code::before { content: "default "; }
}
.quiet { color: var(--quiet); }
.required { color: var(--post); font-size: .8em; }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} API</title>
<style>{{ style }}</style>
</head>
<body>
{%- macro call(endpoint) -%}
<span class="method {{ endpoint.method }}">{{ endpoint.method }}</span> {{ endpoint.path }}
{%- endmacro %}
{%- macro table(schema, shown_first=()) %}
<div class="table"><table>
<thead><tr><th>field</th><th>type</th><th>default</th><th>meaning</th></tr></thead>
<tbody>
{%- for field in schema | fields(shown_first) %}
<tr>
<td><code>{{ field.name }}</code>{% if field.is_required %} <span class="required">required</span>{% endif %}</td>
<td>{{ field.schema | kind }}{% if field.limits %}<br><span class="quiet">{{ field.limits }}</span>{% endif %}</td>
<td>{% if field.default %}<code>{{ field.default }}</code>{% endif %}</td>
<td>{{ field.schema.get("description", "") | prose }}</td>
</tr>
{%- endfor %}
</tbody>
</table></div>
{%- endmacro %}
<h1>{{ info.title }} <small>{{ info.version }}</small></h1>
<p>The API of this server. Programs read it as <a href="openapi.json">openapi.json</a>. In a request, <code>null</code>
is the same as leaving a field out.</p>
<nav><ul>
{%- for endpoint in endpoints %}
<li><a href="#{{ endpoint.anchor }}">{{ call(endpoint) }}</a></li>
{%- endfor %}
</ul></nav>
{%- for endpoint in endpoints %}
<section>
<h2 id="{{ endpoint.anchor }}">{{ call(endpoint) }}</h2>
<p>{{ endpoint.description | prose }}</p>
{%- if endpoint.body %}
<pre>{{ endpoint.command }}</pre>
<h3 id="{{ endpoint.body }}">Request</h3>
{{- table(schemas[endpoint.body], endpoint.example) }}
{%- endif %}
<h3>Answers</h3>
<ul>
{%- for status, media_type, name in endpoint.answers %}
<li><code>{{ status }}</code> {% if name %}<a href="#{{ name }}">{{ name }}</a>{% endif %}
<span class="quiet">{{ media_type }}</span></li>
{%- endfor %}
</ul>
</section>
{%- endfor %}
{%- for name, schema in types.items() %}
<section>
<h2 id="{{ name }}">{{ name }}</h2>
<p>{{ schema.get("description", "") | prose }}</p>
{%- if schema.properties %}
{{- table(schema) }}
{%- else %}
<p>{{ schema | kind }}</p>
{%- endif %}
</section>
{%- endfor %}
</body>
</html>
"""
