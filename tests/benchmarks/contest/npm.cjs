// The process of the npm package: a question a line on its input, an answer a line on its output, as contestant.py
// has it.
//
//     node --expose-gc npm.cjs FOLDER-OF-THE-PACKAGE
//
// Timed is a loop over arguments that were made before. Each operation has a loop of its own, so that V8 may compile
// each for the one method it calls.
'use strict'

const fs = require('fs')
const readline = require('readline')
const { performance } = require('perf_hooks')

const SessionManager = require(process.argv[2])

const manager = new SessionManager()
const nothing = () => {}
manager.on('error', nothing) // without one a rejection would end the process

const TIMEOUT = 86400
const DATA = { cart: ['bread', 'milk'] }
const IO = {}
const EVENTS = ['sessionCreated', 'sessionDeleted', 'notifyClientToLogout']
// New strings are made for so many calls at a time, so that they are as warm as a header that has just been parsed.
const WARM = 2000

let keys = []
let users = []
let sliceAt = 0
let number = 0
let sink // what is called for nothing might be left out by V8

class Wrong extends Error {}

const require_ = (right, what) => {
  if (!right) throw new Wrong(what)
}
const now = () => Number(process.hrtime.bigint())
const names = many => Array.from({ length: many }, () => `user${number++}`)
const newString = key => Buffer.from(key, 'latin1').toString('latin1')
const anyPlace = () => Math.floor(Math.random() * keys.length)

function resident() {
  globalThis.gc()
  return Number(fs.readFileSync('/proc/self/statm', 'latin1').split(' ')[1]) * 4096
}

const LOOPS = {
  checkSessionStatus: keys => { for (const key of keys) sink = manager.checkSessionStatus(key) },
  restartSessionTimer: keys => { for (const key of keys) sink = manager.restartSessionTimer(key) },
  getUsernameFromSessionKey: keys => { for (const key of keys) sink = manager.getUsernameFromSessionKey(key) },
  getSessionDetails: keys => { for (const key of keys) sink = manager.getSessionDetails(key) },
  setSessionData: keys => { for (const key of keys) sink = manager.setSessionData(key, DATA) },
  getSessionData: keys => { for (const key of keys) sink = manager.getSessionData(key) },
  deleteSession: keys => { for (const key of keys) sink = manager.deleteSession(key) },
  sendLogoutMessage: keys => { for (const key of keys) sink = manager.sendLogoutMessage(key) },
  setSessionTimeOut: times => { for (const time of times) sink = manager.setSessionTimeOut(time) },
  initSocketReference: references => { for (const io of references) sink = manager.initSocketReference(io) },
  getSessionTimeout: turns => { for (const turn of turns) sink = manager.getSessionTimeout() },
  getSocketReference: turns => { for (const turn of turns) sink = manager.getSocketReference() },
  getLoggedUsers: turns => { for (const turn of turns) sink = manager.getLoggedUsers() },
  loadNewSession: (users, kept) => { for (const user of users) kept.push(manager.loadNewSession(user)) },
  createNewSessionTimer: (keys, kept) => { for (const key of keys) kept.push(manager.createNewSessionTimer(key, 'Luca')) }
}

const RIGHT = {
  checkSessionStatus: answer => answer === true,
  restartSessionTimer: answer => answer === true,
  getUsernameFromSessionKey: (answer, user) => answer === user,
  getSessionDetails: (answer, user) => answer.username === user,
  setSessionData: (answer, user, key) => answer === true && manager.getSessionData(key) === DATA,
  getSessionData: answer => answer === undefined || answer === DATA
}

function timed(what, list, passes = 1, kept = undefined) {
  const loop = LOOPS[what]
  const begun = now()
  for (let pass = 0; pass < passes; pass++) loop(list, kept)
  return now() - begun
}

function nextSlice(most) {
  const size = Math.min(most, keys.length)
  const begin = sliceAt + size <= keys.length ? sliceAt : 0
  sliceAt = begin + size
  return Array.from({ length: size }, (_, index) => begin + index)
}

function prove(what, places) {
  for (const place of places.slice(0, 100)) {
    const [key, user] = [keys[place], users[place]]
    const answer = what === 'setSessionData' ? manager.setSessionData(key, DATA) : manager[what](key)
    require_(RIGHT[what](answer, user, key), `${what} of the session of ${user}`)
  }
}

function timeOfOne(what, { pattern, calls, most }) {
  let places
  let took = 0
  if (pattern === 'in order') {
    places = nextSlice(most)
    const passes = Math.ceil(calls / places.length)
    took = timed(what, places.map(place => keys[place]), passes)
    calls = passes * places.length
  } else {
    const size = Math.min(WARM, calls)
    const turns = Math.ceil(calls / size)
    for (let turn = 0; turn < turns; turn++) {
      places = Array.from({ length: size }, anyPlace)
      took += timed(what, places.map(place => newString(keys[place])))
    }
    calls = turns * size
  }
  prove(what, places)
  return took / calls
}

const noneIsLeftOf = keys => keys.slice(0, 100).every(key => manager.getUsernameFromSessionKey(key) === false)

function besideThem(size) {
  const newUsers = names(size)
  const kept = []
  const logins = timed('loadNewSession', newUsers, 1, kept)
  require_(new Set(kept).size === size, 'two sessions have one key')
  require_(manager.getUsernameFromSessionKey(kept[size - 1]) === newUsers[size - 1], 'a login is not known')
  const logouts = timed('deleteSession', kept)
  require_(noneIsLeftOf(kept), 'a logout has not ended a session')
  return [logins, logouts]
}

function inPlaceOfSome(size) {
  const places = new Set()
  while (places.size < size) places.add(anyPlace())
  const gone = Array.from(places, place => newString(keys[place]))
  const logouts = timed('deleteSession', gone)
  require_(noneIsLeftOf(gone), 'a logout has not ended a session')
  const newUsers = names(size)
  const kept = []
  const logins = timed('loadNewSession', newUsers, 1, kept)
  Array.from(places).forEach((place, index) => {
    keys[place] = kept[index]
    users[place] = newUsers[index]
  })
  return [logins, logouts]
}

const OWN_WAY = {
  'login and logout'({ pattern, calls, most }) {
    const inOrder = pattern === 'in order'
    const size = inOrder ? Math.min(most, keys.length) : Math.min(WARM, calls, Math.floor(keys.length / 2))
    const passes = Math.ceil(calls / size)
    let [logins, logouts] = [0, 0]
    for (let pass = 0; pass < passes; pass++) {
      const [i, o] = inOrder ? besideThem(size) : inPlaceOfSome(size)
      logins += i
      logouts += o
    }
    return { loadNewSession: logins / passes / size, deleteSession: logouts / passes / size }
  },
  deleteAllSessions() {
    const begun = now()
    manager.deleteAllSessions()
    const took = now() - begun
    require_(noneIsLeftOf(keys), 'a session has not ended')
    const size = keys.length
    ANSWERS.fill({ size })
    return { deleteAllSessions: took / size }
  },
  getLoggedUsers({ calls }) {
    require_(manager.getLoggedUsers().length === keys.length, 'not all are listed')
    calls = Math.ceil(calls / keys.length)
    return { getLoggedUsers: timed('getLoggedUsers', Array(calls).fill(0)) / calls / keys.length }
  },
  settings({ calls }) {
    const each = {}
    const turns = Array(calls).fill(0)
    each.setSessionTimeOut = timed('setSessionTimeOut', Array(calls).fill(TIMEOUT)) / calls
    each.getSessionTimeout = timed('getSessionTimeout', turns) / calls
    each.initSocketReference = timed('initSocketReference', Array(calls).fill(IO)) / calls
    each.getSocketReference = timed('getSocketReference', turns) / calls
    require_(manager.getSocketReference() === IO, 'another reference')
    require_(manager.getSessionTimeout() === TIMEOUT, 'another timeout')
    const some = keys.slice(0, calls)
    const passes = Math.ceil(calls / some.length)
    each.sendLogoutMessage = timed('sendLogoutMessage', some, passes) / passes / some.length
    manager.initSocketReference(null)
    return each
  },
  createNewSessionTimer({ calls }) {
    const some = []
    LOOPS.loadNewSession(names(calls), some)
    const timers = []
    const took = timed('createNewSessionTimer', some, 1, timers)
    timers.forEach(clearTimeout) // it is a second one, which the package itself would leave behind
    for (const key of some) require_(manager.deleteSession(key), 'a session with a new timer is gone')
    return { createNewSessionTimer: took / calls }
  }
}

const ANSWERS = {
  fill({ size, timeout = TIMEOUT }) {
    manager.setSessionTimeOut(timeout)
    manager.deleteSession(manager.loadNewSession('first'))
    users = names(size)
    keys = []
    const before = resident()
    const heapBefore = process.memoryUsage().heapUsed
    for (const user of users) keys.push(manager.loadNewSession(user))
    const bytes = (resident() - before) / size
    return { bytes, heap: (process.memoryUsage().heapUsed - heapBefore) / size }
  },
  listen({ listeners }) {
    for (const event of EVENTS) listeners ? manager.on(event, nothing) : manager.off(event, nothing)
    return {}
  },
  time({ what, ...details }) {
    return { ns: what in OWN_WAY ? OWN_WAY[what](details) : { [what]: timeOfOne(what, details) } }
  },
  late: ({ size, timeout }) => new Promise((resolve, reject) => {
    const [seen, times, deadlines] = [[], [], new Map()]
    const patience = setTimeout(() => reject(new Wrong(`${size - seen.length} sessions have not run out`)), 300000)
    manager.on('sessionDeleted', key => {
      seen.push(key)
      times.push(performance.now())
      if (seen.length < size) return
      clearTimeout(patience)
      const late = Float64Array.from(seen, (key, index) => times[index] - deadlines.get(key)).sort()
      if (new Set(seen).size !== size) reject(new Wrong('a session has ended twice'))
      resolve({ percentiles: Array.from({ length: 101 }, (_, percent) => late[Math.round(percent / 100 * (size - 1))]) })
    })
    manager.setSessionTimeOut(timeout)
    for (const user of names(size)) deadlines.set(manager.loadNewSession(user), performance.now() + timeout * 1000)
  })
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: what, ...details } = JSON.parse(line)
    let answer
    try {
      answer = await ANSWERS[what](details)
    } catch (failure) {
      if (!(failure instanceof Wrong)) throw failure
      answer = { error: failure.message }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  process.exit(0)
}

main()
