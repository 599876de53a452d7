/* bpe.c - byte-pair encoding: the hash table of merges, and the merging of a piece of text.
 *
 * piece (pretokenize.c) -> one token a byte -> the pair with the lowest rank is merged, the leftmost first, until no
 * pair is in the table. Short pieces look for it in an array, long ones in a heap: O(n log n).
 *
 * Untrusted vocabularies cannot make it slow: a table whose probes grow long is built anew with another seed, and
 * refused after a few attempts. Source: Sennrich et al. 2016.
 */
#include "tokenizer_internal.h"

/* Pieces up to this length are merged by scanning. Words are shorter; the heap wins from about here on. */
#define SHORT_PIECE 32
/* In a table that is half full, a longest probe over 256 has no practical chance (linear probing: about log(n) / 0.19,
 * 86 for 2^24 entries), unless the keys were chosen for it. */
#define MAX_PROBES 256
#define N_SEEDS 4

/* Odd multipliers without structure: fractional digits of the golden ratio, and of the square roots of 2, 3, 5. */
static const uint64_t seeds[N_SEEDS] = {0x9e3779b97f4a7c15u, 0x6a09e667f3bcc909u, 0xbb67ae8584caa73bu,
                                        0x3c6ef372fe94f82bu};

/* ---- building ---- */

/* Index of tokens by their bytes; lives while a tokenizer is built. */
typedef struct token_index {
    uint64_t *hashes; /* [vocab_size] */
    uint64_t *powers; /* [vocab_size]: base ^ length */
    uint32_t *slots;  /* HYB_NO_TOKEN: free */
    uint64_t base;
    uint32_t shift;
} token_index;

/* 64 - log2 of a table's size for n entries: a power of two, at least 2 n and at least 4. */
static uint32_t table_shift(size_t n) {
    uint32_t bits = 2;
    while (((size_t)1 << bits) < 2 * n) ++bits;
    return 64 - bits;
}
static size_t table_size(uint32_t shift) { return (size_t)1 << (64 - shift); }

/* A polynomial's low bits depend on few of its bytes: spread them before the table takes the high ones. */
static size_t index_slot(const token_index *index, uint64_t hash) {
    hash ^= hash >> 29;
    return (size_t)((hash * index->base) >> index->shift);
}

/* hash(x) = sum of (x[i] + 1) base^(n - 1 - i): that of a concatenation follows from its parts. */
static void hash_tokens(const hyb_tokenizer *t, token_index *index) {
    for (uint32_t token = 0; token < t->vocab_size; ++token) {
        const uint8_t *bytes = hyb_token_bytes(t, token);
        uint64_t hash = 0, power = 1;
        for (uint32_t i = 0; i < hyb_token_length(t, token); ++i) {
            hash = hash * index->base + bytes[i] + 1u;
            power *= index->base;
        }
        index->hashes[token] = hash;
        index->powers[token] = power;
    }
}

/* The indexed token whose bytes are those of `left`, then those of `right`; HYB_NO_TOKEN if there is none. */
static uint32_t find_joined(const hyb_tokenizer *t, const token_index *index, uint32_t left, uint32_t right) {
    uint64_t hash = index->hashes[left] * index->powers[right] + index->hashes[right];
    size_t mask = table_size(index->shift) - 1, n_left = hyb_token_length(t, left),
           n_right = hyb_token_length(t, right);
    for (size_t i = index_slot(index, hash); index->slots[i] != HYB_NO_TOKEN; i = (i + 1) & mask) {
        uint32_t token = index->slots[i];
        const uint8_t *bytes = hyb_token_bytes(t, token);
        if (index->hashes[token] == hash && hyb_token_length(t, token) == n_left + n_right &&
            memcmp(bytes, hyb_token_bytes(t, left), n_left) == 0 &&
            memcmp(bytes + n_left, hyb_token_bytes(t, right), n_right) == 0)
            return token;
    }
    return HYB_NO_TOKEN;
}

/* Adds a token, unless an equal one is there. 0 if its probes are too many. */
static int index_add(const hyb_tokenizer *t, token_index *index, uint32_t token) {
    size_t mask = table_size(index->shift) - 1, i = index_slot(index, index->hashes[token]);
    for (int probe = 0; probe < MAX_PROBES; ++probe, i = (i + 1) & mask) {
        uint32_t other = index->slots[i];
        if (other == HYB_NO_TOKEN) {
            index->slots[i] = token;
            return 1;
        }
        if (index->hashes[other] == index->hashes[token] && hyb_token_length(t, other) == hyb_token_length(t, token) &&
            memcmp(hyb_token_bytes(t, other), hyb_token_bytes(t, token), hyb_token_length(t, token)) == 0)
            return 1;
    }
    return 0;
}

/* Fills the index: of equal tokens it holds an ordinary one rather than a special one, then the lowest id. */
static int index_fill(const hyb_tokenizer *t, token_index *index, const uint8_t *is_special) {
    for (int attempt = 0; attempt < N_SEEDS; ++attempt) {
        int fits = 1;
        index->base = seeds[attempt];
        hash_tokens(t, index);
        memset(index->slots, 0xff, table_size(index->shift) * sizeof *index->slots);
        for (int special = 0; special < 2 && fits; ++special)
            for (uint32_t token = 0; token < t->vocab_size && fits; ++token)
                if (is_special[token] == special) fits = index_add(t, index, token);
        if (fits) return 1;
    }
    return 0;
}

static hyb_status find_byte_tokens(hyb_ctx *ctx, hyb_tokenizer *t, const uint8_t *is_special, hyb_status invalid) {
    memset(t->byte_tokens, 0xff, sizeof t->byte_tokens);
    for (int special = 0; special < 2; ++special)
        for (uint32_t token = 0; token < t->vocab_size; ++token) {
            if (is_special[token] != special || hyb_token_length(t, token) != 1) continue;
            uint32_t *slot = &t->byte_tokens[*hyb_token_bytes(t, token)];
            if (*slot == HYB_NO_TOKEN) *slot = token;
        }
    for (int byte = 0; byte < 256; ++byte)
        if (t->byte_tokens[byte] == HYB_NO_TOKEN)
            return hyb_fail(ctx, invalid, "the vocabulary lacks the byte 0x%02x: BPE needs all 256 single bytes", byte);
    return HYB_OK;
}

static hyb_status find_results(hyb_ctx *ctx, hyb_tokenizer *t, const token_index *index, hyb_status invalid) {
    for (uint32_t rank = 0; rank < t->n_merges; ++rank) {
        uint32_t left = t->merges[2 * (size_t)rank], right = t->merges[2 * (size_t)rank + 1];
        t->table.results[rank] = find_joined(t, index, left, right);
        if (t->table.results[rank] == HYB_NO_TOKEN)
            return hyb_fail(ctx, invalid,
                            "merge %u joins the tokens %u and %u, but the result is not in the vocabulary",
                            (unsigned)rank, (unsigned)left, (unsigned)right);
    }
    return HYB_OK;
}

HYB_INLINE size_t merge_slot(const hyb_merge_table *table, uint64_t pair) {
    return (size_t)((pair * table->seed) >> table->shift);
}

HYB_INLINE uint32_t find_rank(const hyb_merge_table *table, uint32_t left, uint32_t right) {
    uint64_t pair = (uint64_t)left << 32 | right;
    size_t mask = ((size_t)1 << (64 - table->shift)) - 1;
    for (size_t i = merge_slot(table, pair);; i = (i + 1) & mask) {
        if (table->slots[i].pair == pair) return table->slots[i].rank;
        if (table->slots[i].pair == UINT64_MAX) return HYB_NO_RANK;
    }
}

/* Puts all merges into the table with its present seed. 1: done; 0: too many probes; -1: *repeated is a merge that was
 * there before. */
static int table_fill(hyb_tokenizer *t, uint32_t *repeated) {
    size_t size = table_size(t->table.shift);
    for (size_t i = 0; i < size; ++i) t->table.slots[i].pair = UINT64_MAX;
    for (uint32_t rank = 0; rank < t->n_merges; ++rank) {
        uint64_t pair = (uint64_t)t->merges[2 * (size_t)rank] << 32 | t->merges[2 * (size_t)rank + 1];
        size_t i = merge_slot(&t->table, pair);
        int probe = 0;
        while (t->table.slots[i].pair != UINT64_MAX) {
            if (t->table.slots[i].pair == pair) {
                *repeated = rank;
                return -1;
            }
            if (++probe == MAX_PROBES) return 0;
            i = (i + 1) & (size - 1);
        }
        t->table.slots[i].pair = pair;
        t->table.slots[i].rank = rank;
    }
    return 1;
}

static hyb_status build_table(hyb_ctx *ctx, hyb_tokenizer *t, hyb_status invalid) {
    uint32_t repeated = 0;
    int filled = 0;
    t->table.shift = table_shift(t->n_merges);
    t->table.slots = hyb_alloc(ctx, table_size(t->table.shift), sizeof *t->table.slots);
    if (t->table.slots == NULL) return hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for %u merges", t->n_merges);
    for (int attempt = 0; attempt < N_SEEDS && filled == 0; ++attempt) {
        t->table.seed = seeds[attempt];
        filled = table_fill(t, &repeated);
    }
    if (filled < 0)
        return hyb_fail(ctx, invalid, "merge %u (tokens %u and %u) was listed before; list each pair once",
                        (unsigned)repeated, (unsigned)t->merges[2 * (size_t)repeated],
                        (unsigned)t->merges[2 * (size_t)repeated + 1]);
    return filled ? HYB_OK : hyb_fail(ctx, invalid, "the merges collide in every hash table");
}

hyb_status hyb_bpe_build(hyb_ctx *ctx, hyb_tokenizer *t, hyb_status invalid) {
    hyb_status status;
    token_index index = {NULL, NULL, NULL, 0, table_shift(t->vocab_size)};
    uint8_t *is_special = hyb_alloc_zeroed(ctx, t->vocab_size, 1);
    index.hashes = hyb_alloc(ctx, t->vocab_size, sizeof *index.hashes);
    index.powers = hyb_alloc(ctx, t->vocab_size, sizeof *index.powers);
    index.slots = hyb_alloc(ctx, table_size(index.shift), sizeof *index.slots);
    t->table.results = hyb_alloc(ctx, t->n_merges, sizeof *t->table.results);
    if (!is_special || !index.hashes || !index.powers || !index.slots || !t->table.results) {
        status = hyb_fail(ctx, HYB_ERROR_OUT_OF_MEMORY, "no memory for a vocabulary of %u", (unsigned)t->vocab_size);
        goto out;
    }
    for (uint32_t i = 0; i < t->n_specials; ++i) is_special[t->specials[i]] = 1;
    status = find_byte_tokens(ctx, t, is_special, invalid);
    if (status != HYB_OK) goto out;
    if (!index_fill(t, &index, is_special)) {
        status = hyb_fail(ctx, invalid, "the vocabulary collides in every hash table");
        goto out;
    }
    status = find_results(ctx, t, &index, invalid);
    if (status == HYB_OK) status = build_table(ctx, t, invalid);
out:
    hyb_free(ctx, index.slots);
    hyb_free(ctx, index.powers);
    hyb_free(ctx, index.hashes);
    hyb_free(ctx, is_special);
    return status;
}

/* ---- merging ---- */

/* n <= SHORT_PIECE: ranks[i] belongs to the pair (i, i + 1). */
static void merge_short(const hyb_tokenizer *t, const uint8_t *piece, size_t n, hyb_token_sink *sink) {
    uint32_t tokens[SHORT_PIECE], ranks[SHORT_PIECE];
    for (size_t i = 0; i < n; ++i) tokens[i] = t->byte_tokens[piece[i]];
    for (size_t i = 0; i + 1 < n; ++i) ranks[i] = find_rank(&t->table, tokens[i], tokens[i + 1]);
    for (;;) {
        uint32_t best = HYB_NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; ++i)
            if (ranks[i] < best) {
                best = ranks[i];
                at = i;
            }
        if (best == HYB_NO_RANK) break;
        --n;
        tokens[at] = t->table.results[best];
        for (size_t i = at + 1; i < n; ++i) tokens[i] = tokens[i + 1];
        for (size_t i = at + 1; i + 1 < n; ++i) ranks[i] = ranks[i + 1];
        if (at + 1 < n) ranks[at] = find_rank(&t->table, tokens[at], tokens[at + 1]);
        if (at > 0) ranks[at - 1] = find_rank(&t->table, tokens[at - 1], tokens[at]);
    }
    for (size_t i = 0; i < n; ++i) hyb_token_put(sink, tokens[i]);
}

/* Binary min-heap of rank << 32 | position: the lowest rank first, then the leftmost. */
static void heap_down(uint64_t *heap, size_t n, size_t i, uint64_t key) {
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1] < heap[child]) ++child;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t key) {
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2] > key) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0];
    --*n;
    if (*n > 0) heap_down(heap, *n, 0, heap[*n]);
    return top;
}

/* A long piece as a doubly linked list of symbols; a symbol is named by the position of its first byte. */
typedef struct symbol_list {
    uint32_t *token;
    uint32_t *previous; /* UINT32_MAX: none */
    uint32_t *next;     /* n: none */
    uint32_t *rank;     /* of the merge with the next, HYB_NO_RANK if there is none or the symbol is gone */
    uint64_t *heap;
    size_t n_heap;
    uint32_t n;
} symbol_list;

/* Looks up the pair that begins at symbol i and queues it. An older entry of i with another rank becomes stale. */
static void update_pair(const hyb_tokenizer *t, symbol_list *s, uint32_t i) {
    uint32_t next = s->next[i];
    s->rank[i] = next < s->n ? find_rank(&t->table, s->token[i], s->token[next]) : HYB_NO_RANK;
    if (s->rank[i] != HYB_NO_RANK) heap_push(s->heap, &s->n_heap, (uint64_t)s->rank[i] << 32 | i);
}

static void merge_long(const hyb_tokenizer *t, symbol_list *s) {
    for (uint32_t i = 0; i + 1 < s->n; ++i)
        if (s->rank[i] != HYB_NO_RANK) s->heap[s->n_heap++] = (uint64_t)s->rank[i] << 32 | i;
    for (size_t i = s->n_heap / 2; i-- > 0;) heap_down(s->heap, s->n_heap, i, s->heap[i]);
    /* Each merge takes an entry and adds at most two, and there are at most n - 1 merges: 2 n entries are enough. */
    while (s->n_heap > 0) {
        uint64_t key = heap_pop(s->heap, &s->n_heap);
        uint32_t i = (uint32_t)key, rank = (uint32_t)(key >> 32), gone;
        if (s->rank[i] != rank) continue;
        gone = s->next[i];
        s->token[i] = t->table.results[rank];
        s->rank[gone] = HYB_NO_RANK;
        s->next[i] = s->next[gone];
        if (s->next[i] < s->n) s->previous[s->next[i]] = i;
        update_pair(t, s, i);
        if (s->previous[i] != UINT32_MAX) update_pair(t, s, s->previous[i]);
    }
}

static hyb_status workspace_reserve(hyb_bpe_workspace *w, size_t n) {
    if (n <= w->n) return HYB_OK;
    n = n < SIZE_MAX / 128 && n < 2 * w->n ? 2 * w->n : n; /* doubling: many growing pieces stay cheap */
    hyb_bpe_workspace_free(w);
    if (hyb_mul_overflows(n, 4)) return HYB_ERROR_OUT_OF_MEMORY;
    w->symbols = hyb_alloc(w->memory, 4 * n, sizeof *w->symbols);
    w->heap = hyb_alloc(w->memory, 2 * n, sizeof *w->heap);
    if (w->symbols == NULL || w->heap == NULL) {
        hyb_bpe_workspace_free(w);
        return HYB_ERROR_OUT_OF_MEMORY;
    }
    w->n = n;
    return HYB_OK;
}

void hyb_bpe_workspace_free(hyb_bpe_workspace *w) {
    hyb_free(w->memory, w->symbols);
    hyb_free(w->memory, w->heap);
    w->symbols = NULL;
    w->heap = NULL;
    w->n = 0;
}

hyb_status hyb_bpe_piece(const hyb_tokenizer *t, hyb_bpe_workspace *w, const uint8_t *piece, size_t n_bytes,
                         hyb_token_sink *sink) {
    symbol_list s;
    if (n_bytes <= SHORT_PIECE) {
        merge_short(t, piece, n_bytes, sink);
        return HYB_OK;
    }
    if (n_bytes >= UINT32_MAX) return HYB_ERROR_UNSUPPORTED; /* positions have 32 bits */
    HYB_TRY(workspace_reserve(w, n_bytes));
    s.token = w->symbols;
    s.previous = s.token + n_bytes;
    s.next = s.previous + n_bytes;
    s.rank = s.next + n_bytes;
    s.heap = w->heap;
    s.n_heap = 0;
    s.n = (uint32_t)n_bytes;
    for (uint32_t i = 0; i < s.n; ++i) {
        s.token[i] = t->byte_tokens[piece[i]];
        s.previous[i] = i - 1; /* of the first: UINT32_MAX, by the wrapping of unsigned numbers */
        s.next[i] = i + 1;
    }
    for (uint32_t i = 0; i < s.n; ++i)
        s.rank[i] = i + 1 < s.n ? find_rank(&t->table, s.token[i], s.token[i + 1]) : HYB_NO_RANK;
    merge_long(t, &s);
    for (uint32_t i = 0; i < s.n; i = s.next[i]) hyb_token_put(sink, s.token[i]);
    return HYB_OK;
}
