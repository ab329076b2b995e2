"""Pages for people: one HTML file each, which needs no network and no other file.

A page is a template that extends `page.html`, rendered by `page.render`:

    {% extends "page.html" %}
    {% from "parts.html" import facts, table, note, warning %}
    {% block content %}
    {{ facts([("rows", "3,000"), ("tokens", "91,204")]) }}
    <section>
      <h2>Lengths</h2>
      {{ lengths }}                     {# a chart, made in Python #}
      {{ table(["file", "rows"], [["a.parquet", "1,000"]], numbers=[1]) }}
      {{ note("No text was truncated.") }}
    </section>
    {% endblock %}

    html = render("mine.html", kind="…", title="…", subtitle="…", lengths=histogram(…))

Every value is escaped, unless it is `Markup`, which only charts and macros make. Charts are
functions that return `Markup`: `charts.bars` (a table with bars), `charts.histogram`,
`charts.lines`, and `scatter.scatter` (points that show their text on hover and keyboard focus).
Each has a caption, a description for screen readers and, where its values are not printed beside
it, a table of them. `words` formats numbers: `{{ 1234|count }}`, `share`, `size`, `duration`,
`number`.
"""
