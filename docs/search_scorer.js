// Readers search for a task, so pages for a task come before others with the same score, and explanations after them.
// A page counts more for each word of the query that its headings have; Sphinx counts only the best of them.
var Scorer = {
  score: ([page, , , , score, , kind]) => {
    if (/^(how-to|tutorial)/.test(page)) score += 2;
    if (/^(explanation|changelog)/.test(page)) score -= 4;
    if (kind !== "text") return score;
    const { docnames, titleterms } = Search._index;
    const words = [...Search._parseQuery(new URLSearchParams(location.search).get("q"))[1]];
    const inHeadings = words.filter((word) =>
      [Object.hasOwn(titleterms, word) ? titleterms[word] : []].flat().includes(docnames.indexOf(page))
    );
    return score + 5 * inHeadings.length;
  },
  // What follows is Sphinx's own.
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
