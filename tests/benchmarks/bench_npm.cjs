// The measured process of the npm package, as bench_sessions.py: node --expose-gc bench_npm.cjs FOLDER-OF-THE-PACKAGE
'use strict'
const assert = require('assert')
const manager = new (require(process.argv[2]))()
const DATA = { cart: ['bread', 'milk'] }
let [keys, users, number] = [[], [], 0]
const names = size => Array.from({ length: size }, () => `user${number++}`)
const residentBytes = () => { globalThis.gc(); return process.memoryUsage.rss() }

// Each operation gets a loop of its own, so that V8 compiles each for the one method that it calls. The results are
// kept, since V8 might leave out a call whose result is not used.
const loop = body => new Function('manager', 'list', 'kept', 'DATA', `for (const item of list) ${body}`)
const LOOPS = {
  loadNewSession: loop('kept.push(manager.loadNewSession(item))'),
  setSessionData: loop('kept[0] = manager.setSessionData(item, DATA)')
}

function timed(what, list, kept = []) {
  LOOPS[what] ??= loop(`kept[0] = manager.${what}(item)`)
  const begun = process.hrtime.bigint()
  LOOPS[what](manager, list, kept, DATA)
  return Number(process.hrtime.bigint() - begun) / list.length / 1000
}

function timeLogin(newUsers) {
  const kept = []
  const loadNewSession = timed('loadNewSession', newUsers, kept)
  assert(new Set(kept).size === kept.length, 'two sessions have one key')
  newUsers.forEach((user, i) => assert(manager.getUsernameFromSessionKey(kept[i]) === user, 'not logged in'))
  const deleteSession = timed('deleteSession', kept)
  for (const key of kept) assert(!manager.getUsernameFromSessionKey(key), 'a session survived its logout')
  return { loadNewSession, deleteSession }
}

const ANSWERS = {
  fill({ size }) {
    users = names(size)
    const before = residentBytes()
    for (const user of users) keys.push(manager.loadNewSession(user))
    return { 'memory of a session': (residentBytes() - before) / size }
  },
  time({ what, calls }) {
    if (what === 'loadNewSession') return [1, 2].map(() => timeLogin(names(calls)))[1]
    const some = keys.slice(0, calls)
    const [, took] = [timed(what, some), timed(what, some)]
    some.slice(0, 100).forEach((key, i) => {
      const answer = manager[what](key, DATA)
      const expected = ['getUsernameFromSessionKey', 'getSessionDetails'].includes(what) ? users[i] : true
      assert((answer.username ?? answer) === expected, `${what}: ${answer}`)
      assert(what !== 'setSessionData' || manager.getSessionData(key) === DATA, 'the data are not what was set')
    })
    return { [what]: took }
  }
}

require('readline').createInterface({ input: process.stdin }).on('line', line => {
  const { do: what, ...details } = JSON.parse(line)
  process.stdout.write(JSON.stringify(ANSWERS[what](details)) + '\n')
}).on('close', () => process.exit())
