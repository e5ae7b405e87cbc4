/*
 * Claims on a directory, as scripts/hypervisor/claims/directory.py carries them out.
 *
 * Each label that is a small letter and a number is one step: one system call, or none. Anything may
 * come between two steps. README.md beside this file says what each step stands for in the code (a
 * test compares), what is left out and why, and what the checks found. `check` runs it.
 *
 *   G          generations a life may have            POWER    the power fails once, at any time
 *   WORKERS    processes that claim                   ERRORS   a signature may fail for another reason
 *   CRASHES    deaths of a process, at any step       ACTS     holders beat and release
 *   TWIN       the first completion is sent twice     SWEEP    processes reap, cancel and tidy, too
 *   REPEATS    completions sent again later           BATCHES  two lives, two batches with views
 *   LIVENESS   a judge that is right in the end, and the formula to check under weak fairness
 *   MUT_*      one step done wrongly: has to be found
 */

#ifndef G
#define G 3
#endif
#ifndef WORKERS
#define WORKERS 3
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef REPEATS
#define REPEATS 0
#endif
#ifdef BATCHES
#define LIVES 2
#else
#define LIVES 1
#define life 0
#endif
#define CLAIMS (G * LIVES)

/* ------------------------------------------------------------------ the file system */

/* What an `end` says: a revocation, a token's release, or a token's result. */
#define NONE 0
#define REVOKED 1
#define RELEASED(token) (16 + (token))
#define DONE(token) (32 + (token))
#define IS_DONE(end) ((end) >= 32 && (end) < 64)
#define TOKEN(end) ((end) & 15)
#define GONE 255

#define BIT(n) (1 << (n))

bool dir[CLAIMS];     /* locks/<k>~<g> is there */
byte owner[CLAIMS];   /* the token that signed it, 0 for nobody */
byte ended[CLAIMS];   /* its `end` */
byte drafts[CLAIMS];  /* whose r.<nonce> lies in it, a bit each */
byte result[LIVES];   /* the token in results/<k>.json, 0 while there is none */

#define AT(g) (life * G + (g) - 1)

#ifdef MUT_TWO_NAMES
byte done[CLAIMS];    /* completions under a name of their own */
#define RESULT_AT(g) done[AT(g)]
#else
#define RESULT_AT(g) ended[AT(g)]
#endif

#ifdef POWER
bool owner_synced[CLAIMS];
bool end_synced[CLAIMS];
bool data_synced[CLAIMS];  /* the bytes behind a result's name */
bool was[CLAIMS];          /* collected: its name may come back while locks/ is not synced */
bool result_synced[LIVES];
bool torn[LIVES];
bool boot;                 /* turns when the power fails: nobody goes on where he was */
bool name_lost;            /* a claim's directory was lost: I2 and I3 speak of the others only */
#endif

#ifdef BATCHES
byte view[2];              /* results/ of two batches: the life + 1 that each means, 0 for no link */
#ifdef POWER
bool view_synced[2];
#endif
#endif

/* ------------------------------------------------------------------ what was told, and to whom */

byte tokens;               /* handed out so far */
byte accepted[LIVES];
byte told_lost;            /* tokens whose holder was told ClaimLost, a bit each */
byte revoked;              /* tokens that were revoked while there was no result */
byte effects[LIVES];       /* whose result the task's file tells of */

#if CRASHES > 0
byte crashes = CRASHES;
#endif
#if REPEATS > 0
byte repeats = REPEATS;
#endif
#ifdef ERRORS
byte errors = 1;
#endif
#ifdef TWIN
byte gift_token;
byte gift_generation;
#endif
#ifdef LIVENESS
bool dead[CLAIMS];         /* whoever made it died */
byte wrong = 1;            /* verdicts that hit the living */
#endif

#define CHECK(name, holds) \
	if \
	:: !(holds) -> printf("BROKEN %e\n", name); assert(false) \
	:: else \
	fi

mtype = { I1, I2, I3, I4, I5, I6, I7, R3, KEPT, PUBLISHED, EFFECTS, LIFE };

#define ENDED(g) (ended[AT(g)] != NONE && !IS_DONE(ended[AT(g)]))
#define OPEN(g) (dir[AT(g)] && ended[AT(g)] == NONE)

#if G == 2
#define ONE_AFTER_THE_OTHER (!dir[AT(2)] || (dir[AT(1)] && ENDED(1)))
#define ONE_OPEN (!(OPEN(1) && OPEN(2)))
#else
#define ONE_AFTER_THE_OTHER ((!dir[AT(2)] || (dir[AT(1)] && ENDED(1))) && (!dir[AT(3)] || (dir[AT(2)] && ENDED(2))))
#define ONE_OPEN (OPEN(1) + OPEN(2) + OPEN(3) <= 1)
#endif
#ifdef POWER
#define EXCUSED name_lost
#else
#define EXCUSED false
#endif

#define INVARIANTS \
	CHECK(I2, result[life] || EXCUSED || ONE_AFTER_THE_OTHER); \
	CHECK(I3, result[life] || EXCUSED || ONE_OPEN)

/* ------------------------------------------------------------------ faults, at any step */

#if CRASHES > 0
#define DIE(where) if :: crashes > 0 -> crashes--; SAY(("W%d --  dies\n", me)); goto where :: true fi
#else
#define DIE(where) skip
#endif
#ifdef POWER
#define FAULT if :: boot != mine -> goto cut :: else fi; DIE(crashed)
#define FAULT_UNHELD if :: boot != mine -> tok = 0; goto cut :: else fi; DIE(crashed_unheld)
#else
#define FAULT DIE(crashed)
#define FAULT_UNHELD DIE(crashed_unheld)
#endif

#define SAY(words) printf words

#if defined(ACTS) || defined(ERRORS)
#define RELEASES
#endif

/* Where a part that several acts share goes on to. */
#define FOR_CLAIM 1
#define FOR_COMPLETE 2
#define FOR_D3 3
#define FOR_SETTLED 4
#define FOR_LOSS 5
#define FOR_BEAT 6
#define FOR_RELEASE 7
#define FOR_REAP 8
#define FOR_COLLECT 9
#define FOR_CANCEL 10
#define FOR_LATE 11
#define FOR_TIDY 12
#define FOR_SWEEP 13

proctype Worker(byte me; byte batch; bool twin)
{
	byte t, tok;     /* the generation in hand, and its token */
	byte h, x;       /* the highest generation seen; the one that is looked at */
	byte e, r;       /* an end, and a result, as they were read */
	byte to, then;   /* where to go on: after a look; after publishing and collecting */
	bool late;       /* the item had its result when this claim was made */
	bool synced, releasing;
#ifdef POWER
	bool mine;
#endif
#ifdef BATCHES
	byte life;
#endif

#ifdef TWIN
	if
	:: twin
	:: !twin -> goto idle
	fi;
end_twin:
	atomic {
		gift_token != 0 -> tok = gift_token; t = gift_generation; goto d0
	};
#endif

idle:
	if
#ifdef BATCHES
	:: goto v1
#else
	:: goto c1
#endif
#ifdef SWEEP
	:: to = FOR_CANCEL; goto c2
	:: goto w1
	:: goto y1
#endif
	fi;

/* ---------------------------------------------------------------- which life */

#ifdef BATCHES
v1:	atomic { /* readlink the batch's view */
		FAULT;
		if
		:: view[batch] != 0 -> life = view[batch] - 1; SAY(("W%d v1  batch %d means life %d\n", me, batch, life + 1)); goto VIEWED
		:: else -> life = 0; goto v2
		fi
	};
v2:	atomic { /* stat results/<k>, <k>.r2: the first without one */
		FAULT;
		if
		:: result[life] && life + 1 < LIVES -> life++; goto v2
		:: result[life] && life + 1 == LIVES -> life = 0; goto out
		:: else -> SAY(("W%d v2  life %d has no result\n", me, life + 1)); goto v6
		fi
	};
v6:	atomic { /* fsync the store's results/: this life counts on the one before it */
#if defined(POWER) && !defined(MUT_LIFE_UNSYNCED)
		FAULT;
		if
		:: life > 0 && result[0] -> result_synced[0] = true
		:: else
		fi;
#endif
		goto v3
	};
v3:	atomic { /* symlink the view */
		FAULT;
		if
		:: view[batch] == 0 ->
			CHECK(LIFE, life == 0 || result[0]);
			view[batch] = life + 1;
			SAY(("W%d v3  batch %d is to mean life %d\n", me, batch, life + 1));
			goto VIEWED
		:: else -> goto v4
		fi
	};
v4:	atomic { /* readlink: another worker of the batch was first */
		FAULT;
		life = view[batch] - 1;
		SAY(("W%d v4  another worker was first: life %d\n", me, life + 1));
		goto VIEWED
	};
#ifdef POWER
VIEWED:
v5:	atomic { /* fsync the batch's results/ */
		FAULT;
		view_synced[batch] = true;
		goto c1
	};
#else
VIEWED: goto c1;
#endif
#endif

/* ---------------------------------------------------------------- claim */

c1:	atomic { /* stat results/<k> */
		FAULT;
		if
		:: result[life] -> SAY(("W%d c1  there is a result: done\n", me)); goto out
		:: else -> h = 0; to = FOR_CLAIM; goto c2
		fi
	};
c2:	atomic { /* stat locks/<k>, <k>~2 ... until one is missing */
		FAULT;
		if
		:: h < G && dir[AT(h + 1)] -> h++; SAY(("W%d c2  generation %d is there\n", me, h)); goto c2
		:: else
		fi;
		if
		:: to == FOR_CLAIM && h == 0 -> to = 0; goto c4
		:: to == FOR_CLAIM && h > 0 -> x = h; goto e1
		:: to == FOR_COLLECT && h == 0 -> to = 0; goto COLLECTED
		:: to == FOR_COLLECT && h > 0 -> to = 0; goto g3
#ifdef SWEEP
		:: to == FOR_REAP && h == 0 -> to = 0; goto idle
		:: to == FOR_REAP && h > 0 -> x = h; goto e1
		:: to == FOR_CANCEL && h == 0 -> to = 0; goto idle
		:: to == FOR_CANCEL && h > 0 -> x = h; goto k1
#endif
		fi
	};
c4:	atomic { /* mkdir locks/<k>~<h+1> */
		FAULT;
		if
		:: h == G -> h = 0; goto idle
		:: h < G && dir[AT(h + 1)] -> SAY(("W%d c4  mkdir %d: exists, busy\n", me, h + 1)); h = 0; goto idle
		:: h < G && !dir[AT(h + 1)] ->
			t = h + 1;
			h = 0;
			dir[AT(t)] = true;
			owner[AT(t)] = 0;
			ended[AT(t)] = NONE;
			late = result[life] != 0;
#ifdef POWER
			owner_synced[AT(t)] = false;
			end_synced[AT(t)] = false;
			was[AT(t)] = false;
#endif
#ifdef LIVENESS
			dead[AT(t)] = false;
#endif
			SAY(("W%d c4  mkdir %d\n", me, t));
			INVARIANTS;
			goto c5
		fi
	};
c5:	atomic { /* symlink owner */
		FAULT_UNHELD;
		if
		:: dir[AT(t)] && owner[AT(t)] == 0 ->
			tokens++;
			assert(tokens < 8);
			tok = tokens;
			owner[AT(t)] = tok;
			if
			:: ended[AT(t)] == REVOKED && !result[life] -> revoked = revoked | BIT(tok)
			:: else
			fi;
			SAY(("W%d c5  sign %d with token %d\n", me, t, tok));
			goto c6
		:: !dir[AT(t)] || owner[AT(t)] != 0 ->
			SAY(("W%d c5  sign %d: taken over before it was signed\n", me, t));
			t = 0;
			late = false;
			goto idle
#ifdef ERRORS
		:: errors > 0 -> /* an error, and not done; or done all the same */
			errors--;
			tokens++;
			tok = tokens;
			late = false;
			if
			:: dir[AT(t)] && owner[AT(t)] == 0 -> owner[AT(t)] = tok
			:: true
			fi;
			SAY(("W%d c5  sign %d: disk error\n", me, t));
			goto c8
#endif
		fi
	};
#ifdef ERRORS
c8:	atomic { /* rmdir the newborn, which works only while it is empty; then give back what is left */
		FAULT_UNHELD;
		if
		:: dir[AT(t)] && owner[AT(t)] == 0 && ended[AT(t)] == NONE && drafts[AT(t)] == 0 ->
			dir[AT(t)] = false;
			SAY(("W%d c8  rmdir %d\n", me, t))
		:: else
		fi;
		INVARIANTS;
		goto f1
	};
#endif
c6:	atomic { /* stat results/<k> again */
		FAULT_UNHELD;
#ifndef MUT_NO_C6
		if
		:: result[life] ->
			SAY(("W%d c6  there is a result: the claim on %d is late\n", me, t));
			tok = 0;
			late = false;
			x = t;
			then = FOR_LATE;
			goto g1
		:: else
		fi;
#endif
		SAY(("W%d c6  holds %d\n", me, t));
		CHECK(I6, !late);
#ifdef TWIN
		if
		:: gift_token == 0 -> gift_token = tok; gift_generation = t
		:: else
		fi;
#endif
		late = false
	};
c7:	if /* the claim is in somebody's hands */
	:: goto d0
#ifdef ACTS
	:: goto b1
	:: t < G -> goto f1
#endif
	fi;

/* ---------------------------------------------------------------- how a generation ended */

e1:	atomic { /* readlink end */
		FAULT;
		if
		:: !dir[AT(x)] || (ended[AT(x)] == NONE && RESULT_AT(x) == NONE) -> goto e2
		:: dir[AT(x)] && IS_DONE(RESULT_AT(x)) -> goto e3
		:: else -> e = ended[AT(x)]
		fi;
		goto LOOKED
	};
e2:	atomic { /* lstat the claim: open, or gone? */
		FAULT;
		if
		:: dir[AT(x)] -> e = NONE
		:: else -> e = GONE
		fi;
		goto LOOKED
	};
e3:	atomic { /* read end */
		FAULT;
		if
		:: dir[AT(x)] && IS_DONE(RESULT_AT(x)) -> e = RESULT_AT(x)
		:: else -> e = GONE
		fi;
		goto LOOKED
	};
LOOKED: atomic {
		if
		:: to == FOR_CLAIM && e == GONE -> goto CLAIM_AGAIN
		:: to == FOR_CLAIM && e == NONE -> to = 0; x = 0; goto r1
		:: to == FOR_CLAIM && IS_DONE(e) ->
			to = 0;
			e = 0;
			h = 0;
#ifdef MUT_NO_HELP
			x = 0;
			goto idle;
#else
			then = FOR_CLAIM;
			goto p1
#endif
		:: to == FOR_CLAIM && (e == REVOKED || (e >= 16 && e < 32)) ->
			to = 0;
			e = 0;
			x = 0;
#ifdef MUT_NEXT_UNSYNCED
			goto c4
#else
			goto c3
#endif
		:: to == FOR_COMPLETE && e == GONE -> to = 0; goto UNSYNCED
		:: to == FOR_COMPLETE && e == DONE(tok) -> to = 0; e = 0; then = FOR_COMPLETE; goto p1
		:: to == FOR_COMPLETE && e != GONE && e != DONE(tok) -> to = 0; e = 0; x = 0; goto d6
		:: to == FOR_D3 && e == DONE(tok) -> to = 0; e = 0; then = FOR_COMPLETE; goto p1
		:: to == FOR_D3 && e != DONE(tok) -> to = 0; goto UNSYNCED
		:: to == FOR_SETTLED && (e == NONE || e == GONE) -> to = 0; e = 0; x = 0; goto s3
		:: to == FOR_SETTLED && e == DONE(tok) -> to = 0; goto UNDECIDED
		:: to == FOR_SETTLED && e != NONE && e != GONE && e != DONE(tok) -> to = 0; e = 0; x = 0; goto l1
#ifdef ACTS
		:: to == FOR_BEAT && e == GONE -> to = 0; e = 0; x = 0; goto b4
		:: to == FOR_BEAT && (e == NONE || e == DONE(tok)) -> to = 0; e = 0; x = 0; goto b2
		:: to == FOR_BEAT && e != GONE && e != NONE && e != DONE(tok) -> to = 0; e = 0; x = 0; goto b4
#endif
#ifdef RELEASES
		:: to == FOR_RELEASE && e == RELEASED(tok) -> to = 0; e = 0; x = 0; t = 0; tok = 0; goto idle
		:: to == FOR_RELEASE && e != RELEASED(tok) -> to = 0; e = 0; x = 0; releasing = true; goto l1
#endif
#ifdef POWER
		:: to == FOR_LOSS -> to = 0; x = 0; goto l2
#endif
#ifdef SWEEP
		:: to == FOR_REAP && IS_DONE(e) -> to = 0; e = 0; h = 0; then = FOR_REAP; goto p1
		:: to == FOR_REAP && e == NONE -> x = 0; goto r1
		:: to == FOR_REAP && e != NONE && !IS_DONE(e) -> to = 0; e = 0; h = 0; x = 0; goto idle
#endif
		fi
	};
CLAIM_AGAIN: atomic { to = 0; e = 0; h = 0; x = 0; goto c1 };
UNSYNCED: atomic { e = 0; x = 0; synced = false; goto s1 };
UNDECIDED: atomic { /* EIO: the caller calls again, with the same claim */
		e = 0; x = 0; SAY(("W%d s3  undecided: calls again\n", me)); goto d0
	};

#ifndef MUT_NEXT_UNSYNCED
c3:	atomic { /* fsync locks/<k>~<h>: whoever ended it may not have come to it */
		FAULT;
		if
		:: dir[AT(h)] ->
#ifdef POWER
			owner_synced[AT(h)] = true;
			end_synced[AT(h)] = true;
#endif
			goto c4
		:: else -> h = 0; goto c1
		fi
	};
#endif

/* ---------------------------------------------------------------- revoke */

r1:	atomic { /* judge: any claim without an end may be found gone */
		FAULT;
		if
		:: !dir[AT(h)] -> h = 0; goto JUDGED
#ifdef LIVENESS
		:: dir[AT(h)] && h < G && !dead[AT(h)] && wrong > 0 -> wrong--
		:: dir[AT(h)] && dead[AT(h)]
		:: dir[AT(h)] && !dead[AT(h)] -> h = 0; to = 0; goto idle
#else
		:: dir[AT(h)] && h < G
		:: dir[AT(h)] -> h = 0; to = 0; goto idle /* it lives: busy */
#endif
		fi;
		SAY(("W%d r1  judges %d gone\n", me, h));
		x = h;
		h = 0;
		goto r3
	};
JUDGED: if
	:: to == 0 -> goto c1
	:: to != 0 -> to = 0; goto idle
	fi;
r3:	atomic { /* symlink end */
		FAULT;
		if
		:: dir[AT(x)] && ended[AT(x)] == NONE ->
#ifdef MUT_RECREATE
			dir[AT(x)] = false; /* the reaper deletes it, for the next to make it anew */
			drafts[AT(x)] = 0;
#else
			ended[AT(x)] = REVOKED;
#ifdef POWER
			end_synced[AT(x)] = false;
#endif
#endif
			if
			:: owner[AT(x)] != 0 && !result[life] -> revoked = revoked | BIT(owner[AT(x)])
			:: else
			fi;
			SAY(("W%d r3  revokes %d\n", me, x));
			INVARIANTS
		:: else -> SAY(("W%d r3  %d is ended already, or gone\n", me, x))
		fi;
#ifdef POWER
		goto r4
#else
		x = 0;
		goto JUDGED
#endif
	};
#ifdef POWER
r4:	atomic { /* fsync the claim's directory */
		FAULT;
		if
		:: dir[AT(x)] -> owner_synced[AT(x)] = true; end_synced[AT(x)] = true; SAY(("W%d r4  fsync %d\n", me, x))
		:: else
		fi;
		x = 0;
		goto JUDGED
	};
#endif

/* ---------------------------------------------------------------- complete */

d0:	atomic { /* stat results/<k> */
		FAULT;
		if
		:: result[life] -> synced = false; goto s1
		:: else -> x = t; to = FOR_COMPLETE; goto e1
		fi
	};
d6:	atomic { /* readlink owner: mine? */
		FAULT;
		if
		:: dir[AT(t)] && owner[AT(t)] == tok -> goto d1
		:: else -> synced = false; goto s1
		fi
	};
d1:	atomic { /* open a new r.<nonce>, write, fsync */
		FAULT;
		if
		:: dir[AT(t)] ->
			drafts[AT(t)] = drafts[AT(t)] | BIT(me);
#ifdef MUT_REOPEN
			CHECK(I5, result[life] != tok); /* one name for every call, so this opens the result itself */
#endif
			SAY(("W%d d1  writes its result for %d\n", me, t));
			goto d3
		:: else -> synced = false; goto s1
		fi
	};
d3:	atomic { /* link r.<nonce> to end: decides */
		FAULT;
		if
		:: !dir[AT(t)] || !(drafts[AT(t)] & BIT(me)) ->
			SAY(("W%d d3  link %d: gone\n", me, t));
			synced = false;
			goto s1
		:: dir[AT(t)] && (drafts[AT(t)] & BIT(me)) && RESULT_AT(t) != NONE ->
			drafts[AT(t)] = drafts[AT(t)] & ~BIT(me);
			SAY(("W%d d3  link %d: there is an end\n", me, t));
			x = t;
			to = FOR_D3;
			goto e1
		:: else ->
			drafts[AT(t)] = drafts[AT(t)] & ~BIT(me);
			RESULT_AT(t) = DONE(tok);
#ifdef POWER
			end_synced[AT(t)] = false;
#ifdef MUT_DRAFT_UNSYNCED
			data_synced[AT(t)] = false;
#else
			data_synced[AT(t)] = true;
#endif
#endif
			SAY(("W%d d3  decides %d with token %d\n", me, t, tok));
			INVARIANTS;
			x = t;
			then = FOR_COMPLETE;
			goto p1
		fi
	};

/* ---------------------------------------------------------------- publish x, then collect */

p1:	atomic { /* read end */
		FAULT;
		if
		:: dir[AT(x)] && IS_DONE(RESULT_AT(x)) -> r = TOKEN(RESULT_AT(x)); goto p3
		:: else -> goto p2
		fi
	};
p2:	atomic { /* it is gone: stat results/<k> */
		FAULT;
		x = 0;
		synced = result[life] != 0;
		goto PUBLISHED_OR_GONE
	};
p3:	atomic { /* effects: the task's file, unless there is a result by now */
		FAULT;
		if
		:: !result[life] -> effects[life] = r
		:: else
		fi;
		r = 0;
#ifdef MUT_COLLECT_EARLY
		h = 0;
		goto g1;
#endif
		goto d4
	};
d4:	atomic { /* link end to results/<k> */
		FAULT;
		if
		:: !dir[AT(x)] || RESULT_AT(x) == NONE -> goto p4
		:: dir[AT(x)] && RESULT_AT(x) != NONE && result[life] -> SAY(("W%d d4  there is a result\n", me))
		:: else ->
			assert(IS_DONE(RESULT_AT(x)));
			result[life] = TOKEN(RESULT_AT(x));
#ifdef POWER
			result_synced[life] = false;
			torn[life] = !data_synced[AT(x)];
			CHECK(EFFECTS, EXCUSED || effects[life] == result[life]);
#else
			CHECK(EFFECTS, effects[life] == result[life]);
#endif
			SAY(("W%d d4  publishes %d, token %d\n", me, x, result[life]));
			CHECK(I4, !(revoked & BIT(result[life])));
			CHECK(I7, !(told_lost & BIT(result[life])))
		fi;
		x = 0;
		goto d5
	};
p4:	atomic { /* the end is gone: stat results/<k> */
		FAULT;
		x = 0;
		if
		:: result[life] -> goto d5
		:: else -> synced = false; goto PUBLISHED_OR_GONE
		fi
	};
d5:	atomic { /* fsync results/ */
		FAULT;
#ifdef POWER
#ifndef MUT_RESULT_UNSYNCED
		if
		:: result[life] -> result_synced[life] = true
		:: else
		fi;
#endif
#endif
		goto g1
	};
PUBLISHED_OR_GONE: if
	:: then == FOR_CLAIM -> then = 0; goto c1
	:: then == FOR_COMPLETE -> then = 0; goto s1
	:: then == FOR_REAP -> then = 0; synced = false; goto idle
	fi;

g1:	atomic { /* stat results/<k> again */
		FAULT;
		if
		:: result[life] ->
			h = 0;
			to = FOR_COLLECT;
#ifdef POWER
			if
			:: then == FOR_LATE || then == FOR_TIDY || then == FOR_SWEEP -> goto g2
			:: else
			fi;
#endif
			goto c2
		:: else ->
#ifdef MUT_COLLECT_EARLY
			h = x;
			goto g3;
#endif
			goto COLLECTED
		fi
	};
#ifdef POWER
g2:	atomic { /* fsync results/ */
		FAULT;
#ifndef MUT_COLLECT_UNSYNCED
		if
		:: result[life] -> result_synced[life] = true
		:: else
		fi;
#endif
		goto c2
	};
#endif
g3:	atomic { /* rename it away, from the highest down */
		FAULT;
		if
		:: dir[AT(h)] ->
			CHECK(PUBLISHED, result[life]);
#ifdef POWER
			was[AT(h)] = true;
#else
			owner[AT(h)] = 0;
			ended[AT(h)] = NONE;
#endif
			dir[AT(h)] = false;
			drafts[AT(h)] = 0;
#ifdef MUT_TWO_NAMES
			done[AT(h)] = NONE;
#endif
			SAY(("W%d g3  collects %d\n", me, h));
			goto g4
		:: else -> h--
		fi;
		if
		:: h == 0 -> goto COLLECTED
		:: h > 0 -> goto g3
		fi
	};
g4:	atomic { /* delete it in trash/, where nobody looks */
		h--;
		if
		:: h == 0
		:: h > 0 -> goto g3
		fi
	};
COLLECTED: if
	:: then == FOR_CLAIM -> then = 0; goto c1
	:: then == FOR_COMPLETE -> then = 0; synced = true; goto s1
	:: then == FOR_LATE || then == FOR_TIDY -> goto g5
#ifdef SWEEP
	:: then == FOR_REAP || then == FOR_SWEEP -> then = 0; goto idle
#endif
	fi;
g5:	atomic { /* rename the one that no count may lead to */
		FAULT;
		if
		:: dir[AT(x)] ->
			CHECK(PUBLISHED, result[life]);
#ifdef POWER
			was[AT(x)] = true;
#else
			owner[AT(x)] = 0;
			ended[AT(x)] = NONE;
#endif
			dir[AT(x)] = false;
			drafts[AT(x)] = 0;
			SAY(("W%d g5  collects %d\n", me, x))
		:: else
		fi;
		x = 0;
		t = 0;
		then = 0;
		goto idle
	};

/* ---------------------------------------------------------------- what came of a completion */

s1:	atomic { /* read results/<k> */
		FAULT;
		if
		:: result[life] == tok && !synced -> goto s2
		:: result[life] == tok && synced -> goto ACCEPTED
		:: result[life] != tok && result[life] -> synced = false; goto l1
		:: !result[life] -> synced = false; x = t; to = FOR_SETTLED; goto e1
		fi
	};
s2:	atomic { /* fsync results/ */
		FAULT;
#ifdef POWER
#ifndef MUT_RESULT_UNSYNCED
		result_synced[life] = true;
#endif
#endif
		goto ACCEPTED
	};
ACCEPTED: atomic {
		SAY(("W%d s2  token %d is accepted\n", me, tok));
		synced = false;
		CHECK(I1, !accepted[life] || accepted[life] == tok);
		CHECK(I5, result[life] == tok);
		CHECK(I7, !(told_lost & BIT(tok)));
		accepted[life] = tok;
#if REPEATS > 0
		if
		:: repeats > 0 -> repeats--; SAY(("W%d --  sends its completion again\n", me)); goto d0
		:: true
		fi;
#endif
		goto out
	};
s3:	atomic { /* no result, no end: readlink owner */
		FAULT;
		if
		:: dir[AT(t)] && owner[AT(t)] == tok -> goto UNDECIDED
		:: else -> goto l1
		fi
	};

/* ---------------------------------------------------------------- ClaimLost */

l1:	atomic {
		FAULT;
#ifdef POWER
		x = t;
		to = FOR_LOSS;
		goto e1
	};
l2:	atomic { /* read results/<k> */
		FAULT;
		r = result[life];
#ifdef MUT_LOSS_UNSYNCED
		goto LOST;
#endif
		if
		:: e != NONE && e != GONE -> goto l3
		:: else
		fi;
		if
		:: r -> goto l4
		:: else -> goto LOST
		fi
	};
l3:	atomic { /* fsync the claim's directory: the end that was seen */
		FAULT;
		if
		:: dir[AT(t)] -> owner_synced[AT(t)] = true; end_synced[AT(t)] = true
		:: else
		fi;
		if
		:: r -> goto l4
		:: else -> goto LOST
		fi
	};
l4:	atomic { /* fsync results/: the result that was seen */
		FAULT;
		result_synced[life] = true;
		goto LOST
	};
LOST: atomic {
		FAULT;
#else
		e = (dir[AT(t)] -> RESULT_AT(t) : NONE);
		r = result[life];
#endif
		/* A release that its own completion has overtaken hears `finished`: that is no loss. */
		if
		:: releasing && (r == tok || e == DONE(tok))
		:: else ->
			SAY(("W%d l1  token %d is lost\n", me, tok));
			CHECK(I7, result[life] != tok && (r || e != DONE(tok)));
			told_lost = told_lost | BIT(tok)
		fi;
		e = 0;
		r = 0;
#if REPEATS > 0
		if
		:: repeats > 0 && !releasing -> repeats--; SAY(("W%d --  completes all the same\n", me)); goto d0
		:: true
		fi;
#endif
		t = 0;
		tok = 0;
		releasing = false;
		goto idle
	};

/* ---------------------------------------------------------------- beat, release */

#ifdef ACTS
b1:	atomic { x = t; to = FOR_BEAT; goto e1 };
b2:	atomic { /* readlink owner */
		FAULT;
		if
		:: dir[AT(t)] && owner[AT(t)] == tok -> goto b3
		:: else -> goto b4
		fi
	};
b3:	atomic { /* utime the claim's directory */
		FAULT;
		if
		:: dir[AT(t)] -> goto c7
		:: else -> goto b4
		fi
	};
b4:	atomic { /* read results/<k>: was it its own completion? */
		FAULT;
		if
		:: result[life] == tok -> goto c7
		:: else -> goto l1
		fi
	};
#endif
#ifdef RELEASES
f1:	atomic { /* readlink owner */
		FAULT;
		if
		:: dir[AT(t)] && owner[AT(t)] == tok -> goto f2
		:: else -> releasing = true; goto l1
		fi
	};
f2:	atomic { /* symlink end */
		FAULT;
#ifdef MUT_RELEASE_ANY
		x = (G > 2 && dir[AT(3)] -> 3 : (dir[AT(2)] -> 2 : 1)); /* whichever is there now */
#else
		x = t;
#endif
		if
		:: !dir[AT(x)] -> x = 0; releasing = true; goto l1
		:: dir[AT(x)] && ended[AT(x)] != NONE -> x = t; to = FOR_RELEASE; goto e1
		:: else ->
			CHECK(R3, result[life] || owner[AT(x)] == tok);
			ended[AT(x)] = RELEASED(tok);
#ifdef POWER
			end_synced[AT(x)] = false;
#endif
			SAY(("W%d f2  releases %d\n", me, x));
			INVARIANTS
		fi;
		x = 0
	};
f3:	atomic { /* fsync the claim's directory */
		FAULT;
		if
		:: !dir[AT(t)] -> releasing = true; goto l1
		:: else
		fi;
#ifdef POWER
		owner_synced[AT(t)] = true;
		end_synced[AT(t)] = true;
#endif
		t = 0;
		tok = 0;
		goto idle
	};
#endif

/* ---------------------------------------------------------------- reap, cancel, tidy */

#ifdef SWEEP
w1:	atomic { /* stat results/<k> */
		FAULT;
		if
		:: result[life] -> then = FOR_SWEEP; goto g1
		:: else -> h = 0; to = FOR_REAP; goto c2
		fi
	};
k1:	atomic { /* stat results/<k>; a cancellation asks nobody whether the holder lives */
		FAULT;
		h = 0;
		if
		:: result[life] || x == G -> x = 0; to = 0; goto idle
		:: else -> goto r3
		fi
	};
y1:	atomic { /* list locks/: any name in it */
		FAULT;
		if
		:: dir[AT(1)] -> x = 1
		:: dir[AT(2)] -> x = 2
#if G > 2
		:: dir[AT(3)] -> x = 3
#endif
		:: true -> goto idle
		fi
	};
y2:	atomic { /* stat results/<k> */
		FAULT;
		if
		:: result[life] -> then = FOR_TIDY; goto g1
		:: else -> x = 0; goto idle
		fi
	};
#endif

/* ---------------------------------------------------------------- death */

crashed_unheld: atomic {
		late = false;
#ifdef ACTS
		if
		:: tok > 0 && t < G -> SAY(("W%d --  no death, but an error: gives the claim back\n", me)); goto f1
		:: true
		fi;
#endif
		tok = 0;
		goto crashed
	};
crashed: atomic {
#ifdef LIVENESS
		if
		:: t > 0 -> dead[AT(t)] = true
		:: else
		fi;
#endif
		if
		:: t > 0 -> drafts[AT(t)] = drafts[AT(t)] & ~BIT(me)
		:: else
		fi;
		h = 0; x = 0; e = 0; r = 0; to = 0; then = 0; late = false; synced = false; releasing = false;
		if
#if defined(TWIN) || REPEATS > 0
		:: tok > 0 -> SAY(("W%d --  whoever held the claim calls again\n", me)); goto d0
#endif
#ifdef ACTS
		:: tok > 0 && t < G -> SAY(("W%d --  no death, but an error: gives the claim back\n", me)); goto f1
#endif
		:: true
		fi;
		t = 0;
		tok = 0;
		SAY(("W%d --  a new process takes its place\n", me));
		goto idle
	};
#ifdef POWER
cut: atomic {
		mine = boot;
		h = 0; x = 0; e = 0; r = 0; to = 0; then = 0; late = false; synced = false; releasing = false;
		if
		:: tok > 0 -> SAY(("W%d --  whoever held the claim calls again\n", me)); goto d0
		:: true
		fi;
		t = 0;
		tok = 0;
		SAY(("W%d --  a new process takes its place\n", me));
		goto idle
	};
end_out:
out:	atomic { boot != mine -> goto cut }
#else
out:	skip
#endif
}

#ifdef POWER
/* What is not synced is lost or kept, each name by itself; locks/ never is synced. */
proctype Mains()
{
	byte n, m;
#ifdef BATCHES
	byte life;
#endif

	atomic {
		SAY(("--     the power fails\n"));
		boot = !boot;
		for (m : 0 .. LIVES - 1) {
			if
			:: result[m] && !result_synced[m] ->
				SAY(("--     the result is lost\n"));
				result[m] = 0
			:: true
			fi;
			result_synced[m] = true;
			CHECK(KEPT, !accepted[m] || (accepted[m] == result[m] && !torn[m]))
		}
		for (n : 0 .. CLAIMS - 1) {
			drafts[n] = 0;
			if
			:: dir[n] -> /* the name is lost */
				SAY(("--     the directory of %d is lost\n", n % G + 1));
				dir[n] = false;
				name_lost = true;
				owner[n] = 0;
				ended[n] = NONE
			:: dir[n]
			:: !dir[n] && was[n] -> /* the rename is lost */
				SAY(("--     the directory of %d is back\n", n % G + 1));
				dir[n] = true;
				owner_synced[n] = false;
				end_synced[n] = false
			:: !dir[n]
			fi;
			if
			:: dir[n] && owner[n] && !owner_synced[n] ->
				SAY(("--     the owner of %d is lost\n", n % G + 1));
				owner[n] = 0
			:: true
			fi;
			if
			:: dir[n] && ended[n] && !end_synced[n] ->
				SAY(("--     the end of %d is lost\n", n % G + 1));
				if
				:: ended[n] == REVOKED -> revoked = revoked & ~BIT(owner[n])
				:: else
				fi;
				ended[n] = NONE
			:: true
			fi;
			was[n] = false;
			if
			:: !dir[n] -> owner[n] = 0; ended[n] = NONE
			:: else
			fi;
			owner_synced[n] = true;
			end_synced[n] = true
		}
		n = 0;
		m = 0;
#ifdef BATCHES
		INVARIANTS;
		life = 1;
		INVARIANTS;
		life = 0;
		if
		:: view[0] == 0 || view_synced[0]
		:: view[0] != 0 && !view_synced[0] -> view[0] = 0
		:: true
		fi;
		if
		:: view[1] == 0 || view_synced[1]
		:: view[1] != 0 && !view_synced[1] -> view[1] = 0
		:: true
		fi;
		CHECK(LIFE, (view[0] != 2 && view[1] != 2) || result[0])
#else
		INVARIANTS
#endif
	}
}
#endif

init {
	atomic {
#ifdef BATCHES
		run Worker(0, 0, false);
		run Worker(1, 1, false);
#if WORKERS > 2
		run Worker(2, 1, false);
#endif
#else
		run Worker(0, 0, false);
#if WORKERS > 1
		run Worker(1, 0, false);
#endif
#if WORKERS > 2
		run Worker(2, 0, false);
#endif
#endif
#ifdef TWIN
		run Worker(3, 0, true);
#endif
#ifdef POWER
		run Mains();
#endif
	}
}

#ifdef LIVENESS
ltl completion { <> (result[0] != 0) }
#endif
