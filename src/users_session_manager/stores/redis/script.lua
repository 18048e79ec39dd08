-- All that RedisStore does in Redis or Valkey. Each operation is a script of its own, made of the sections below that it
-- needs: its call is atomic and may be repeated.
--
-- KEYS are the `due` sets of the groups it is about, by which a cluster finds the node. All else of a group has a name
-- that differs in its end alone, and so the same hash slot:
--
--   due            sorted set: id of a session -> its alarm, the time at which the poller looks at it. A hint: it is
--                  never later than what is due, and a restart leaves it where it is
--   expiring       sorted set: id -> the deadline of which a warning is to be announced
--   ended          sorted set: id -> until when the process that took it out has the lease to announce its end
--   listens        string: there while a process with listeners for ends has served in the last days; without it, ends
--                  are announced to none, and not kept
--   s:<id>         hash: the session. Its id is the digest of the first key it had, and outlives renewals. Four fields
--                  that each session has are one letter, for their memory: k (key), n (name), c (created), d (deadline).
--                  The others, where they differ from what these say: user (the user id), present (the digest of the
--                  present key), authenticated, started_at (`created` in the time of the deadlines), data, own (a
--                  timeout of its own), limit (the end of its lifetime), fixed (set if that is its own), warning
--                  (seconds before the deadline), warned (the deadline that it was warned of), former (former keys, see
--                  `former_of`), reason (why it has ended), stamp (the security stamp, in quotes)
--   k:<digest>     string: the id of the session that a renewal has given the key of this digest
--   users          sorted set, by text: the sessions of each user, see `user_entry`
--   o:<operation>  string: the ids of the sessions that an operation took out, for a minute: asked again, since its
--                  answer was lost, it answers the same. One with `!` is that of a session whose warning it claimed
--
-- A digest is the SHA-256 of a key, so that no name is a key. Notices of sessions are published on the channel
-- `notices`, which all groups share: a kind, `<group>:<id>`, the seconds left and why it has ended, as words of a text,
-- of which the last two may be empty. Those of logins are on the channel `logins`, to which few processes subscribe.
--
-- Times are Unix times, deadlines perhaps those of another clock; in hashes they are whole microseconds, for their memory.
--
-- ARGV: the time, or nothing for that of the server, and what the operation takes. What is absent is an empty text.
-- Numbers are returned as texts, since Redis would cut their fractions off. No text of a session contains a line feed.
--
-- Redis makes each function of a script anew for each call, so a script has few of them where it is called often.

--- time
local clock = redis.call('TIME')
local unix = clock[1] + clock[2] / 1000000
local now = ARGV[1] == '' and unix or tonumber(ARGV[1])

--- numbers
-- A number of a hash: nil for what another program has written that is none, or has no end.
local function finite(written)
  local number = tonumber(written or '')
  return number and number > -math.huge and number < math.huge and number or nil
end

--- microseconds
local function microseconds(time) return string.format('%.0f', time * 1000000) end

--- text
local function text(number) return string.format('%.17g', number) end

--- prefix
local function prefix_of(due) return string.sub(due, 1, -4) end

--- one_group: prefix
local prefix = prefix_of(KEYS[1])

--- read: numbers
-- What Redis answers, nil if another program has written a value of another type there.
local function ask(command, name)
  local answer = redis.pcall(command, name)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer.err) end
end

-- The session of an id, its fields as texts, and its deadline; nil for what another program has written there.
local function read(prefix, id)
  local fields, s = ask('HGETALL', prefix .. 's:' .. id), {}
  if not fields then return nil end
  for index = 1, #fields, 2 do s[fields[index]] = fields[index + 1] end
  s.id, s.prefix, s.fields, s.deadline = id, prefix, fields, finite(s.d)
  if not (s.deadline and s.k and s.n and finite(s.c)) then return nil end
  s.deadline = s.deadline / 1000000
  return s
end

--- found: time one_group read
-- The live session whose key has the digest ARGV[2]; nil without one, if this node is no replica.
local s = read(prefix, ARGV[2])
if not s then
  local id = ask('GET', prefix .. 'k:' .. ARGV[2])
  s = id and read(prefix, id)
end
if s and (s.reason or s.deadline <= now) then s = nil end
if s and (s.present or s.id) ~= ARGV[2] then
  local _, at = string.find(s.former or '', ARGV[2] .. ' ', 1, true)
  local good_until = at and finite(string.match(s.former, '^%d+', at + 1))
  s = good_until and good_until / 1000000 > now and s or nil
end
if not s then redis.call('DEL', prefix .. 'none') end -- see `refuse_replica`

--- record: time
-- What is returned of a session, as lines: its group, its id, the present Unix time in two parts, the seconds left, and
-- its fields.
local function record(s)
  local group, fields = string.match(s.prefix, '{(%d+)}:$'), table.concat(s.fields, '\n')
  return table.concat({group, s.id, clock[1], clock[2], s.deadline - now, fields}, '\n')
end

--- restart_now: found record
-- All that most restarts do; what others do comes after it.
if not s then return false end
local DAY = 86400
local timeout, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4])
local hash, before = prefix .. 's:' .. s.id, s.deadline
local limit = (finite(s.limit) or math.huge) / 1000000
if lifetime and not s.fixed then
  local lifetime_end = (finite(s.started_at) or finite(s.c)) / 1000000 + lifetime
  if lifetime_end < limit then
    limit = lifetime_end
    redis.call('HSET', hash, 'limit', string.format('%.0f', limit * 1000000))
  end
end
s.deadline = math.min(now + (finite(s.own) or timeout), limit)
redis.call('HSET', hash, 'd', string.format('%.0f', s.deadline * 1000000))
if s.deadline >= before and ARGV[5] == '' and not s.warning and math.floor(s.deadline / DAY) == math.floor(before / DAY) then
  return record(s)
end

--- replica: one_group
-- A node that was demoted would answer what only reads, from what it had then; it refuses whatever may write.
local function refuse_replica() redis.call('DEL', prefix .. 'none') end

--- alarm: microseconds numbers
-- When something is due for a session that no restart moves: its warning or its deadline.
local function alarm_of(deadline, warning, warned)
  if warning and warned ~= microseconds(deadline) then return deadline - warning end
  return deadline
end

--- lifetimes
-- Seconds that a key outlives its purpose, half of that at least: an application that is down for a day loses nothing.
local GRACE = 2 * 86400
-- Seconds that an ended session is remembered once its end was announced, so that what is asked again finds it.
local REMEMBERED = 60

--- ttl: lifetimes
-- At most what Redis takes, whatever timeout another program has written.
local function milliseconds(seconds) return string.format('%.0f', math.min(seconds, 1e12) * 1000) end

local function extend_ttl(key, seconds)
  if redis.call('PTTL', key) < (seconds + GRACE / 2) * 1000 then
    redis.call('PEXPIRE', key, milliseconds(seconds + GRACE))
  end
end

--- keep: ttl
-- Lets all that Redis keeps of a live session stay until a day after its deadline at least.
local function keep(prefix, s, left)
  redis.call('PEXPIRE', prefix .. 's:' .. s.id, milliseconds(left + GRACE))
  extend_ttl(prefix .. 'due', left)
  extend_ttl(prefix .. 'users', left)
  if s.present then extend_ttl(prefix .. 'k:' .. s.present, left) end
end

--- restart: restart_now text alarm keep
local warning, alarm_before = finite(ARGV[5]), alarm_of(before, finite(s.warning), s.warned)
if warning and s.warning and s.deadline == before then
  warning = finite(s.warning) -- it is the same countdown
elseif ARGV[5] ~= (s.warning or '') then
  if warning then redis.call('HSET', hash, 'warning', ARGV[5]) else redis.call('HDEL', hash, 'warning') end
end
local alarm = alarm_of(s.deadline, warning, s.warned)
if alarm < alarm_before then redis.call('ZADD', prefix .. 'due', text(alarm), s.id) end
if math.floor(s.deadline / DAY) ~= math.floor(before / DAY) then
  keep(prefix, s, math.max(0, s.deadline - now)) -- a shorter lifetime may have ended it days ago
end
return s.deadline > now and record(s) or false

--- get: found record
redis.call('DEL', prefix .. 'none') -- see `refuse_replica`
return s and record(s) or false

--- global_id
-- The id of a session in all groups.
local function global_id(prefix, id) return string.match(prefix, '{(%d+)}:$') .. ':' .. id end

--- live: time read
local function live(prefix, id)
  local s = read(prefix, id)
  return s and not s.reason and s.deadline > now and s or nil
end

--- former: numbers
-- Former keys, oldest first: of each its digest, until when it is good, and the key.
local function former_of(s)
  local all = {}
  for digest, good_until, key in string.gmatch(s.former or '', '([^%s,]+) (%S+) ([^,]+)') do
    all[#all + 1] = {digest = digest, good_until = (finite(good_until) or 0) / 1000000, key = key}
  end
  return all
end

--- records: record
local function records_of(sessions)
  local records = {}
  for index, s in ipairs(sessions) do records[index] = record(s) end
  return records
end

--- user_entry
local function user_entry(user, created, id) return #user .. ':' .. user .. ':' .. created .. ':' .. id end

--- users: live user_entry
-- The sessions of a user, oldest first, are the entries between these two: no user id is the beginning of another.
local function user_range(user)
  local one = #user .. ':' .. user
  return '[' .. one .. ':', '(' .. one .. ';'
end

-- The live session of an entry; nil also for an entry that another program has written.
local function session_of(prefix, entry)
  local s = live(prefix, string.sub(entry, -43)) -- the length of a digest
  return s and entry == user_entry(s.user or s.n, s.c, s.id) and s or nil
end

--- notify: global_id
-- The user may lack the permission to publish: an end is one all the same.
local function notify(prefix, kind, id, left, reason, channel)
  local words = {kind, global_id(prefix, id), left and string.format('%.17g', left) or '', reason or ''}
  redis.pcall('PUBLISH', string.match(prefix, '^(.*){') .. (channel or 'notices'), table.concat(words, ' '))
end

--- forget: ttl
local function forget(prefix, id)
  redis.call('ZREM', prefix .. 'ended', id)
  redis.call('PEXPIRE', prefix .. 's:' .. id, milliseconds(REMEMBERED))
end

--- end_session: time lifetimes user_entry notify
-- Takes a session out. Its end is announced by the caller, which has a lease for that; with one of no seconds it is left
-- to another process, if there is one with a listener; without a kind of notice it is announced to none.
local function end_session(s, reason, lease, kind)
  local prefix, ended, hash = s.prefix, s.prefix .. 'ended', s.prefix .. 's:' .. s.id
  redis.call('ZREM', prefix .. 'due', s.id) -- first: with a full memory, Redis would refuse the next one
  redis.call('HSET', hash, 'reason', reason)
  redis.call('ZREM', prefix .. 'users', user_entry(s.user or s.n, s.c, s.id))
  if s.warned then redis.call('ZREM', prefix .. 'expiring', s.id) end
  if s.present then redis.call('DEL', prefix .. 'k:' .. s.present) end
  for digest in string.gmatch(s.former or '', '([^%s,]+) %S+ [^,]+') do redis.call('DEL', prefix .. 'k:' .. digest) end
  if kind and (lease > 0 or redis.call('EXISTS', prefix .. 'listens') == 1) then
    redis.call('ZADD', ended, string.format('%.17g', now + lease), s.id)
    if redis.call('PTTL', ended) < (lease + GRACE / 2) * 1000 then
      redis.call('PEXPIRE', ended, string.format('%.0f', (lease + GRACE) * 1000))
    end
  else redis.call('PEXPIRE', hash, REMEMBERED * 1000) end
  if kind then notify(prefix, kind, s.id, nil, reason) end
  s.fields[#s.fields + 1], s.fields[#s.fields + 2] = 'reason', reason
  return s
end

--- remember: global_id lifetimes
local function remember(prefix, operation, lease, ended, expiring)
  local ids = {}
  for _, s in ipairs(ended) do ids[#ids + 1] = global_id(s.prefix, s.id) end
  for _, s in ipairs(expiring or {}) do ids[#ids + 1] = '!' .. global_id(s.prefix, s.id) end
  if #ids == 0 then return end
  redis.call('SET', prefix .. 'o:' .. operation, table.concat(ids, ' '), 'PX', string.format('%.0f', (REMEMBERED + lease) * 1000))
end

--- taken_before: time read
-- The sessions that an operation has taken out before, if it is asked again, and those of which it has to warn.
local function taken_before(prefix, operation)
  local ended, expiring = {}, {}
  for mark, group, id in string.gmatch(redis.call('GET', prefix .. 'o:' .. operation) or '', '(!?)(%d+):(%S+)') do
    local of_group = string.gsub(prefix, '{%d+}:$', '{' .. group .. '}:')
    local s = read(of_group, id)
    if mark == '' then ended[#ended + 1] = s
    elseif s and not s.reason and s.deadline > now and s.warned == string.format('%.0f', s.deadline * 1000000) then
      expiring[#expiring + 1] = s
    end
  end
  return ended, expiring
end

--- marker: taken_before remember

--- batch
-- How many bytes of data one call returns at most, but for the last session: it is one that holds Redis for long.
local MAX_BYTES = 1048576
local room, bytes = 0, 0
local function is_full() return room <= 0 or bytes > MAX_BYTES end
local function count(s) room, bytes = room - 1, bytes + #(s and s.data or '') end

--- scan: live prefix batch
-- Calls `visit` with the sessions of these groups that `find` finds, the live ones by default, about a page of them;
-- returns each group's next cursor, '' at its end. A scan misses none that is there all the while, and may show one twice.
local function scan(page_size, cursors, visit, find)
  local next_cursors = {}
  room = page_size
  for index, due in ipairs(KEYS) do
    local cursor, prefix = cursors[index], prefix_of(due)
    while cursor ~= '' and not is_full() do
      local found = redis.call('ZSCAN', due, cursor, 'COUNT', math.min(room, 100))
      cursor = found[1] == '0' and '' or found[1]
      for entry = 1, #found[2], 2 do
        local s = (find or live)(prefix, found[2][entry])
        count(s)
        if s then visit(prefix, s) end
      end
    end
    next_cursors[index] = cursor
  end
  return next_cursors
end

--- add: one_group end_session marker records alarm keep batch text users
local digest, operation, key, name, user, timeout, own, lifetime, fixed = unpack(ARGV, 2, 10)
local most, overflow, warning, data, stamp, lease, batch_size = unpack(ARGV, 11)
local hash, users, evicted = prefix .. 's:' .. digest, prefix .. 'users', {}
if most ~= '' then evicted = taken_before(prefix, operation) end
if redis.call('EXISTS', hash) == 1 then return {'added', records_of(evicted)} end -- asked again, since the answer was lost

if most ~= '' then
  local from, to = user_range(user)
  local stay, there, is_more = tonumber(most) - 1, 0, false
  if redis.call('ZLEXCOUNT', users, from, to) > stay then
    -- The newest may stay; where one of them has just expired, an older one may.
    while there < stay do
      local entry = redis.call('ZREVRANGEBYLEX', users, to, from, 'LIMIT', 0, 1)[1]
      if not entry then break end
      to = '(' .. entry
      if session_of(prefix, entry) then there = there + 1 else redis.call('ZREM', users, entry) end
    end
    room = tonumber(batch_size)
    while not is_more do
      local entry = redis.call('ZRANGEBYLEX', users, from, to, 'LIMIT', 0, 1)[1]
      if not entry then break end
      local s = session_of(prefix, entry)
      from = '(' .. entry
      if not s then redis.call('ZREM', users, entry)
      elseif overflow == 'reject' then there = there + 1
      elseif is_full() then is_more = true
      else
        count(s)
        evicted[#evicted + 1] = end_session(s, 'evicted', tonumber(lease), 'ended')
      end
    end
  end
  remember(prefix, operation, tonumber(lease), evicted)
  if is_more then return {'again', records_of(evicted)} end
  if there > stay then return {'full', there} end
end

local limit = lifetime ~= '' and now + tonumber(lifetime) or math.huge
local deadline = math.min(now + tonumber(own ~= '' and own or timeout), limit)
-- What is written first has to be what Redis refuses when its memory is full: after that it would let the rest pass.
local created = microseconds(unix)
redis.call('HSET', hash, 'k', key, 'n', name, 'c', created, 'd', microseconds(deadline))
local function set(field, value) if value ~= '' then redis.call('HSET', hash, field, value) end end
if user ~= name then set('user', user) end
if ARGV[1] ~= '' then set('started_at', microseconds(now)) end
if limit < math.huge then set('limit', microseconds(limit)) end
set('own', own)
set('fixed', fixed)
set('warning', warning)
set('data', data)
set('stamp', stamp)
redis.call('ZADD', users, 0, user_entry(user, created, digest))
redis.call('ZADD', prefix .. 'due', text(alarm_of(deadline, tonumber(warning))), digest)
keep(prefix, {id = digest}, deadline - now)
notify(prefix, 'created', digest, nil, nil, 'logins')
return {'added', records_of(evicted)}

--- renew_key: found live former notify ttl microseconds
local new_digest, new, overlap, most_former = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if s and not string.find(s.k, '^[%w%-]+_%x+$') then return false end -- another program has written it
local former = s and former_of(s) or {}
if not s or s.present == new_digest then
  local id = ask('GET', prefix .. 'k:' .. new_digest) -- asked again, since the answer was lost
  s = id and live(prefix, id)
  former = s and s.present == new_digest and former_of(s) or {}
  return #former > 0 and {global_id(prefix, id), former[#former].key} or false
end
local old, good_until, kept = s.present or s.id, now + overlap, {}
former[#former + 1] = {digest = old, good_until = good_until, key = s.k}
for index, one in ipairs(former) do
  one.good_until = math.min(one.good_until, good_until)
  local is_good = one.good_until > now and #former - index < most_former
  if not is_good then redis.call('DEL', prefix .. 'k:' .. one.digest) end
  if is_good or index == #former then -- the last one is what a call that is repeated returns
    kept[#kept + 1] = one.digest .. ' ' .. (is_good and microseconds(one.good_until) or '0') .. ' ' .. one.key
  end
end
redis.call('HSET', prefix .. 's:' .. s.id, 'k', new, 'present', new_digest, 'former', table.concat(kept, ','),
  'authenticated', microseconds(unix))
if ARGV[7] ~= '' then redis.call('HSET', prefix .. 's:' .. s.id, 'stamp', ARGV[7]) end
if old ~= s.id then extend_ttl(prefix .. 'k:' .. old, overlap) end
redis.call('SET', prefix .. 'k:' .. new_digest, s.id, 'PX', milliseconds(s.deadline - now + GRACE))
notify(prefix, 'renewed', s.id)
return {global_id(prefix, s.id), s.k}

--- send_logout: found notify
redis.call('DEL', prefix .. 'none') -- see `refuse_replica`
if s then notify(prefix, 'logout', s.id) end
return s and 1 or 0

--- keys: replica live
-- The present keys of sessions; with '1', also of those that have ended and are still remembered.
refuse_replica()
local keys = {}
for index = 3, #ARGV do
  local s = (ARGV[2] == '1' and read or live)(prefix, ARGV[index])
  keys[index - 2] = s and s.k or ''
end
return keys

--- sessions: replica live record
-- The sessions of these ids, '' for one that has ended.
refuse_replica()
local records = {}
for index = 2, #ARGV do
  local s = live(prefix, ARGV[index])
  records[index - 1] = s and record(s) or ''
end
return records

--- set_stamp: found
if not s then return 0 end
redis.call('HSET', prefix .. 's:' .. s.id, 'stamp', ARGV[3])
return 1

--- set_data: found ttl
-- With an operation: only if the data is what it was.
local data, operation, before = unpack(ARGV, 3)
if not s then return 0 end
if operation then
  local marker = prefix .. 'o:' .. operation
  if redis.call('EXISTS', marker) == 1 then return 1 end -- asked again, since the answer was lost
  if (s.data or '') ~= before then return 2 end
  redis.call('SET', marker, '', 'PX', milliseconds(REMEMBERED))
end
if data == '' then redis.call('HDEL', prefix .. 's:' .. s.id, 'data')
else redis.call('HSET', prefix .. 's:' .. s.id, 'data', data) end
return 1

--- remove_now: found end_session remember record
local operation, lease = ARGV[3], tonumber(ARGV[4])
if s then
  remember(prefix, operation, lease, {end_session(s, 'deleted', lease, ARGV[5])})
  return {record(s)}
end

--- remove: remove_now taken_before records
return records_of((taken_before(prefix, operation)))

--- of_user: replica record batch users
-- A page of the sessions of a user, after an entry; and its last entry, '' at the end.
refuse_replica()
local user, after, page_size = unpack(ARGV, 2)
local records, from, to = {}, user_range(user)
room = tonumber(page_size)
if after ~= '' then from = '(' .. after end
for _, entry in ipairs(redis.call('ZRANGEBYLEX', prefix .. 'users', from, to, 'LIMIT', 0, page_size)) do
  local s = session_of(prefix, entry)
  count(s)
  if s then records[#records + 1] = record(s) end
  if is_full() then return {records, entry} end
end
return {records, ''}

--- remove_user: replica end_session marker records batch users
-- A page of that, but for the session of one id; and '1', or '' at the end.
refuse_replica()
local user, operation, except, lease, batch_size = unpack(ARGV, 2)
local ended, users = taken_before(prefix, operation), prefix .. 'users'
local from, to = user_range(user)
room = tonumber(batch_size)
for _, entry in ipairs(redis.call('ZRANGEBYLEX', users, from, to, 'LIMIT', 0, room + 1)) do
  if is_full() then break end
  local s = session_of(prefix, entry)
  if not (s and s.id == except) then
    count(s)
    if s then ended[#ended + 1] = end_session(s, 'deleted', tonumber(lease), 'ended')
    else redis.call('ZREM', users, entry) end
  end
end
remember(prefix, operation, tonumber(lease), ended)
return {records_of(ended), is_full() and '1' or ''}

--- acknowledge: one_group forget
-- What has been announced is done with.
for index = 2, #ARGV do forget(prefix, ARGV[index]) end

--- extend: one_group time text ttl
-- A process that is still announcing prolongs its lease; with one of no seconds it gives the end to another.
local lease = tonumber(ARGV[2])
for index = 3, #ARGV do
  redis.call('ZADD', prefix .. 'ended', 'XX', text(now + lease), ARGV[index])
  extend_ttl(prefix .. 's:' .. ARGV[index], lease)
end

--- recover: replica time marker records
-- What an operation whose answer was lost took out, if it has the lease for that still, and what it has to warn of.
refuse_replica()
local ended, expiring = taken_before(prefix, ARGV[2])
local leased = {}
for _, s in ipairs(ended) do
  local leased_until = redis.call('ZSCORE', s.prefix .. 'ended', s.id)
  if leased_until and tonumber(leased_until) > now then leased[#leased + 1] = s end
end
return {records_of(leased), records_of(expiring)}

--- list: replica scan
refuse_replica()
local found = {}
local cursors = scan(tonumber(ARGV[2]), {unpack(ARGV, 3)}, function(_, s)
  found[#found + 1] = {s.id, s.c, s.n, s.k}
end)
return {cursors, found}

--- pages: replica scan record
refuse_replica()
local found = {}
local cursors = scan(tonumber(ARGV[2]), {unpack(ARGV, 3)}, function(_, s) found[#found + 1] = record(s) end)
return {cursors, found}

--- count: replica live text
-- Live sessions: those whose alarm is to come are, and of the others a page is read; returns each group's next place, ''
-- at its end.
refuse_replica()
local count, next_places = 0, {}
for index, due in ipairs(KEYS) do
  local place, prefix = ARGV[index + 2], prefix_of(due)
  if place == '0' then count = count + redis.call('ZCOUNT', due, '(' .. text(now), '+inf') end
  local ids = place == '' and {} or redis.call('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', place, ARGV[2])
  for _, id in ipairs(ids) do count = count + (live(prefix, id) and 1 or 0) end
  next_places[index] = #ids < tonumber(ARGV[2]) and '' or text(place + #ids)
end
return {next_places, count}

--- clear: replica scan end_session marker records
-- Without a lease silently, and also what has expired.
local lease, kind, operation = tonumber(ARGV[2]) or 0, ARGV[2] ~= '' and 'ended', ARGV[3]
refuse_replica()
local ended = taken_before(prefix, operation)
local cursors = scan(tonumber(ARGV[4]), {unpack(ARGV, 5)}, function(prefix, s)
  ended[#ended + 1] = end_session(s, 'deleted', lease, kind)
end, not kind and read)
remember(prefix, operation, lease, ended)
return {cursors, records_of(ended)}

--- claim: replica end_session marker records alarm batch text ttl forget
-- Lets sessions expire, and claims what has ended and is not announced in time, at most `batch_size` of them. Without a
-- listener for ends (a lease of no seconds) or for warnings, the process leaves these to others.
refuse_replica()
local operation, lease, warnings = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local ended, expiring = taken_before(prefix, operation)
local next_at = math.huge
room = tonumber(ARGV[2])

-- Calls `visit` for what is due in a sorted set, while there is room.
local function visit_due(prefix, set, from, visit)
  if is_full() then return end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. set, '-inf', from, 'LIMIT', 0, room)) do
    if is_full() then return end
    local s = read(prefix, id)
    count(s)
    visit(id, s)
  end
end

for _, due in ipairs(KEYS) do
  local prefix = prefix_of(due)
  local is_kept = redis.call('PTTL', prefix .. 'listens')
  if lease > 0 and is_kept < GRACE / 2 * 1000 then
    redis.call('SET', prefix .. 'listens', '', 'PX', milliseconds(GRACE))
  end
  if lease > 0 or is_kept < 0 then
    visit_due(prefix, 'ended', text(now), function(id, s)
      if not (s and s.reason) then redis.call('ZREM', prefix .. 'ended', id)
      elseif lease > 0 then
        redis.call('ZADD', prefix .. 'ended', text(now + lease), id)
        ended[#ended + 1] = s
      else forget(prefix, id) end
    end)
  end
  visit_due(prefix, 'due', text(now), function(id, s)
    if not s or s.reason then redis.call('ZREM', due, id)
    elseif s.deadline <= now then
      local found = end_session(s, 'expired', lease, 'ended')
      if lease > 0 then ended[#ended + 1] = found end
    else
      local warning = finite(s.warning)
      if warning and s.warned ~= microseconds(s.deadline) and s.deadline - warning <= now then
        s.warned = microseconds(s.deadline)
        redis.call('HSET', prefix .. 's:' .. id, 'warned', s.warned)
        redis.call('ZADD', prefix .. 'expiring', text(s.deadline), id)
        extend_ttl(prefix .. 'expiring', 0)
        notify(prefix, 'expiring', id, s.deadline - now)
      end
      redis.call('ZADD', due, text(alarm_of(s.deadline, warning, s.warned)), id)
    end
  end)
  -- Whichever process has found that a warning is due, one with a listener announces it.
  if warnings == '1' then
    visit_due(prefix, 'expiring', '+inf', function(id, s)
      local deadline = tonumber(redis.call('ZSCORE', prefix .. 'expiring', id))
      redis.call('ZREM', prefix .. 'expiring', id)
      if s and not s.reason and s.deadline == deadline and deadline > now then
        expiring[#expiring + 1] = s
      end
    end)
  end
  for _, set in ipairs({'due', lease > 0 and 'ended' or nil}) do
    local first = redis.call('ZRANGE', prefix .. set, 0, 0, 'WITHSCORES')
    if first[2] then next_at = math.min(next_at, tonumber(first[2])) end
  end
end
if is_full() then next_at = now end
remember(prefix, operation, lease, ended, expiring)
return {records_of(ended), records_of(expiring), text(next_at - now)}
