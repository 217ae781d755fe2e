"""What Redis does in one step. Whole numbers only, and all of them below 2^53: Lua's numbers are doubles.

All keys of an organization begin with {gatehouse:limits:ORGANIZATION}: and so lie in one slot of a cluster; a script is
given the leases' key and finds the others from it.

    :leases        hash, call id → "process state at tokens spend plan"; at: milliseconds of admission
                   state: 0 held; 1 held, and an upstream has heard of it; 2 charged as held after its process died;
                   3 let in without Redis, and settled
    :COUNTER       hash. "i": it has begun with what the ledger knew.
                   calendar, lifetime, concurrent: "tPERIOD" used and held, "hPERIOD" held
                   sliding: "t" and "h" of the whole window, "bN" and "kN" of sub-window N, "o" the oldest that counts

A plan is text (windows.Plan.text): for each rule counter, metric, amount, hard, width, slots, period. Periods are
computed in Python; nothing here knows a calendar.
"""

from __future__ import annotations

from lib.store import Script

KEEP_MS = 100 * 86_400_000  # a calendar counter nobody counts in any more
KEEP_WINDOW_MS = 86_400_000

_COMMON = """
local prefix = string.sub(KEYS[1], 1, -7)

-- A zero that was negated is "-0", which Redis takes for no number; adding 0 makes it "0".
local function text(number) return string.format('%.0f', number + 0) end

local function read(plan, tokens, spend)
    local asks = {r = 1, c = 1, t = tonumber(tokens), s = tonumber(spend)}
    local rules = {}
    local shape = '(%S+) (%a) (%d+) (%d) (%d+) (%d+) (%S+)'
    for counter, metric, amount, hard, width, slots, period in string.gmatch(plan, shape) do
        local sliding = width ~= '0'
        rules[#rules + 1] = {
            key = prefix .. counter, metric = metric, amount = tonumber(amount), hard = hard == '1',
            width = sliding and tonumber(width), slots = tonumber(slots), suffix = sliding and '' or period,
            ask = asks[metric], held = metric == 'r' and 0 or asks[metric],
        }
    end
    return rules
end

-- Forget the sub-windows that have left the window, up to the first one that counts.
local function slide(rule, first)
    local fields = redis.call('HGETALL', rule.key)
    for at = 1, #fields, 2 do
        local kind, number = string.match(fields[at], '^([bk])(%d+)$')
        if kind and tonumber(number) < first then
            redis.call('HINCRBY', rule.key, kind == 'b' and 't' or 'h', text(-tonumber(fields[at + 1])))
            redis.call('HDEL', rule.key, fields[at])
        end
    end
    redis.call('HSET', rule.key, 'o', text(first))
    redis.call('PEXPIRE', rule.key, KEEP_WINDOW)
    rule.oldest = first
end

-- Whether the counter has begun, what is used and held in it, and what is held alone.
local function standing(rule, now)
    local fields = {'i', 't' .. rule.suffix, 'h' .. rule.suffix, 'o'}
    local found = redis.call('HMGET', rule.key, unpack(fields))
    if rule.width then
        local first = math.floor(now / rule.width) - rule.slots
        rule.oldest = tonumber(found[4] or 0)
        if rule.oldest < first then
            slide(rule, first)
            found = redis.call('HMGET', rule.key, unpack(fields))
        end
    end
    return found[1], tonumber(found[2] or 0), tonumber(found[3] or 0)
end

-- The first call of a period: forget the periods before the last three. (A clock may be set back.)
local function tidy(key)
    redis.call('PEXPIRE', key, KEEP)
    local periods = {}
    for _, name in ipairs(redis.call('HKEYS', key)) do
        if string.match(name, '^t.') then periods[#periods + 1] = string.sub(name, 2) end
    end
    table.sort(periods)
    for at = 1, #periods - 3 do redis.call('HDEL', key, 't' .. periods[at], 'h' .. periods[at]) end
end

-- Add to the period, or to the sub-window, of a call admitted at that time.
local function add(rule, at, total, held)
    if total == 0 and held == 0 then return end
    local key, suffix = rule.key, rule.suffix
    if rule.width then
        local number = math.floor(at / rule.width)
        if number < (rule.oldest or tonumber(redis.call('HGET', key, 'o') or 0)) then return end
        if total ~= 0 then redis.call('HINCRBY', key, 'b' .. text(number), text(total)) end
        if held ~= 0 then redis.call('HINCRBY', key, 'k' .. text(number), text(held)) end
    end
    if held ~= 0 then redis.call('HINCRBY', key, 'h' .. suffix, text(held)) end
    if total ~= 0 and redis.call('HINCRBY', key, 't' .. suffix, text(total)) == total and suffix ~= '' then
        if suffix == '-' then redis.call('PERSIST', key) else tidy(key) end
    end
end

local function lease(process, state, at, tokens, spend, plan)
    return table.concat({process, state, at, tokens, spend, plan}, ' ')
end

local function parts(found) return string.match(found, '^(%S+) (%d) (%d+) (%d+) (%d+) (.*)$') end
""".replace("KEEP_WINDOW", str(KEEP_WINDOW_MS)).replace("KEEP", str(KEEP_MS))

# ARGV: call, process, plan, tokens, spend, now (ms). Answers a list:
#   held, used and held of each rule | again | unknown (a counter has not begun)
#   refused, then for each full rule: its place, used and held, held, how many numbers follow, sub-windows and amounts
ADMIT = Script(
    _COMMON
    + """
local call, now = ARGV[1], tonumber(ARGV[6])
if redis.call('HEXISTS', KEYS[1], call) == 1 then return {'again'} end
local rules = read(ARGV[3], ARGV[4], ARGV[5])
local totals, refused = {'held'}, {'refused'}
for at, rule in ipairs(rules) do
    local begun, total, held = standing(rule, now)
    if not begun then return {'unknown'} end
    if rule.hard and total + rule.ask > rule.amount then
        local buckets = {}
        if rule.width then
            local fields = redis.call('HGETALL', rule.key)
            for each = 1, #fields, 2 do
                local number = string.match(fields[each], '^b(%d+)$')
                if number then
                    buckets[#buckets + 1] = tonumber(number)
                    buckets[#buckets + 1] = tonumber(fields[each + 1])
                end
            end
        end
        for _, value in ipairs({at, total, held, #buckets}) do refused[#refused + 1] = value end
        for _, value in ipairs(buckets) do refused[#refused + 1] = value end
    end
    totals[at + 1] = total + rule.ask
end
if #refused > 1 then return refused end
for _, rule in ipairs(rules) do add(rule, now, rule.ask, rule.held) end
redis.call('HSET', KEYS[1], call, lease(ARGV[2], '0', ARGV[6], ARGV[4], ARGV[5], ARGV[3]))
return totals
"""
)

# A hold taken without asking: by a process on its own, or before Redis lost it. ARGV as ADMIT, then its state.
REGISTER = Script(
    _COMMON
    + """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
for _, rule in ipairs(read(ARGV[3], ARGV[4], ARGV[5])) do add(rule, tonumber(ARGV[6]), rule.ask, rule.held) end
redis.call('HSET', KEYS[1], ARGV[1], lease(ARGV[2], ARGV[7], ARGV[6], ARGV[4], ARGV[5], ARGV[3]))
return 1
"""
)

# ARGV: call, whether its request counts (1 or 0), tokens, spend. Once: the lease is gone after it.
# Of a call let in without Redis also plan and time (ms): without a lease it is charged where counters have begun (the
# others begin with what the ledger knows, this call included). A lease of state 3 remembers that it was said.
SETTLE = Script(
    _COMMON
    + """
local found = redis.call('HGET', KEYS[1], ARGV[1])
local used = {r = tonumber(ARGV[2]), c = 0, t = tonumber(ARGV[3]), s = tonumber(ARGV[4])}
if not found then
    if not ARGV[5] then return 0 end
    for _, rule in ipairs(read(ARGV[5], 0, 0)) do
        if redis.call('HEXISTS', rule.key, 'i') == 1 then add(rule, tonumber(ARGV[6]), used[rule.metric], 0) end
    end
    redis.call('HSET', KEYS[1], ARGV[1], lease('-', '3', ARGV[6], '0', '0', ARGV[5]))
    return 1
end
local process, state, at, tokens, spend, plan = parts(found)
if state == '3' then return 0 end
if ARGV[5] then  -- this may be said again
    redis.call('HSET', KEYS[1], ARGV[1], lease('-', '3', at, '0', '0', plan))
else
    redis.call('HDEL', KEYS[1], ARGV[1])
end
for _, rule in ipairs(read(plan, tokens, spend)) do
    if state ~= '2' then
        add(rule, tonumber(at), used[rule.metric] - rule.ask, -rule.held)
    elseif rule.metric ~= 'c' then
        add(rule, tonumber(at), used[rule.metric] - rule.ask, 0)
    end
end
return 1
"""
)

# ARGV: calls that an upstream has heard of.
REACHED = Script(
    _COMMON
    + """
for _, call in ipairs(ARGV) do
    local found = redis.call('HGET', KEYS[1], call)
    if found then
        local process, state, at, tokens, spend, plan = parts(found)
        if state == '0' then
            redis.call('HSET', KEYS[1], call, lease(process, '1', at, tokens, spend, plan))
        end
    end
end
return 1
"""
)

# ARGV: now (ms), how long to remember what was charged (ms), then the processes that are dead.
# Gives back what no upstream heard of; charges the rest as held. A call that is settled later after all still finds its
# lease and is charged rightly. Answers how many of each.
REAP = Script(
    _COMMON
    + """
local now, dead, given, charged = tonumber(ARGV[1]), {}, 0, 0
for at = 3, #ARGV do dead[ARGV[at]] = true end
local leases = redis.call('HGETALL', KEYS[1])
for each = 1, #leases, 2 do
    local call = leases[each]
    local process, state, at, tokens, spend, plan = parts(leases[each + 1])
    if state == '2' or state == '3' then
        if now - tonumber(at) > tonumber(ARGV[2]) then redis.call('HDEL', KEYS[1], call) end
    elseif dead[process] then
        for _, rule in ipairs(read(plan, tokens, spend)) do
            local gone = (state == '0' or rule.metric == 'c') and rule.ask or 0
            add(rule, tonumber(at), -gone, -rule.held)
        end
        if state == '0' then
            given = given + 1
            redis.call('HDEL', KEYS[1], call)
        else
            charged = charged + 1
            redis.call('HSET', KEYS[1], call, lease(process, '2', at, tokens, spend, plan))
        end
    end
end
return {given, charged}
"""
)

# ARGV: plan, now (ms), then what the ledger knows for each rule. Each counter begins once.
BEGIN = Script(
    _COMMON
    + """
for at, rule in ipairs(read(ARGV[1], 0, 0)) do
    if redis.call('HSETNX', rule.key, 'i', 1) == 1 then
        redis.call('PEXPIRE', rule.key, rule.width and KEEP_WINDOW or KEEP)
        standing(rule, tonumber(ARGV[2]))
        add(rule, tonumber(ARGV[2]), tonumber(ARGV[at + 2]), 0)
        if rule.suffix == '-' then redis.call('PERSIST', rule.key) end
    end
end
return 1
""".replace("KEEP_WINDOW", str(KEEP_WINDOW_MS)).replace("KEEP", str(KEEP_MS))
)

# ARGV: plan, now (ms), then how much more (or less) was used in each rule.
CORRECT = Script(
    _COMMON
    + """
for at, rule in ipairs(read(ARGV[1], 0, 0)) do
    standing(rule, tonumber(ARGV[2]))
    add(rule, tonumber(ARGV[2]), tonumber(ARGV[at + 2]), 0)
end
return 1
"""
)

# ARGV: plan, now (ms). Answers used, held by turns.
USAGE = Script(
    _COMMON
    + """
local answer = {}
for _, rule in ipairs(read(ARGV[1], 0, 0)) do
    local begun, total, held = standing(rule, tonumber(ARGV[2]))
    answer[#answer + 1] = total - held
    answer[#answer + 1] = held
end
return answer
"""
)

# KEYS: processes, a hash of process → its last heartbeat, ms. ARGV: process, lease (ms).
# Answers how many processes live, then the dead ones.
BEAT = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now))
local answer = {0}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
    if now - tonumber(all[at + 1]) > tonumber(ARGV[2]) then answer[#answer + 1] = all[at] else answer[1] = answer[1] + 1 end
end
return answer
""")

# KEYS: processes. ARGV: lease (ms), then processes whose leases were reaped: forgotten, unless they are back.
BURY = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 2, #ARGV do
    local seen = redis.call('HGET', KEYS[1], ARGV[at])
    if seen and now - tonumber(seen) > tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], ARGV[at]) end
end
return 1
""")
