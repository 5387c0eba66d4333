// Tables as text: names in the first line, then one row a line; empty lines say nothing.

export function parse(table) {
  const [head, ...rows] = table.split(/\r?\n/).filter((line) => line.trim() !== "");
  const names = (head ?? "").split(",");
  return rows.map((row) => Object.fromEntries(row.split(",").map((value, at) => [names[at], value])));
}
