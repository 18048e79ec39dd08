// Readers search for a task, so of two pages with the same score the page for a task comes first.
var Scorer = {
  score: ([page, , , , score]) => (/^(how-to|tutorial)/.test(page) ? score + 2 : score),
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
