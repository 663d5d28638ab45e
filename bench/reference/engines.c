/*
 * Engines of the C original's shapes, so that a machine can be judged by the same work: what the recorded figures of support/original.mjs were measured
 * on may be faster or slower than what the bench runs on. Written anew from the description of those shapes, without their faults: an overwrite
 * counts once, the hash may be filled in any order.
 *
 *   rbtree    red-black tree; a node, a key and a value are an allocation each
 *   memtable  the same with a sequence and a time in the node, behind a reader-writer lock; a lookup copies
 *   hash      chains that double in number when they are one entry long on average
 *   btree     B+Tree of order 100, arrays of pointers in each node, behind one reader-writer lock; a lookup copies
 *
 *   cc -O2 -pthread engines.c -o engines
 *   ./engines ENGINE RECORDS sequential|shuffled ROUNDS SEED        {"set":M/s,"get":M/s,"bytesPerEntry":B}, medians of the rounds
 *   ./engines mix GET% DELETE% OPERATIONS KEYS THREADS SEED         {"millionsPerSecond":M/s}, the rest are sets
 *
 * Keys of 17 bytes, values of 40; the mixed load as mix-records.mjs has it. What is read is compared. Exit code 1: something was not as written.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEY_BYTES = 17, VALUE_BYTES = 40 };

static void fail(const char *what) {
  fprintf(stderr, "engines: %s\n", what);
  exit(1);
}

static void *allocate(size_t bytes) {
  void *memory = malloc(bytes);
  if (memory == NULL) fail("no memory");
  return memory;
}

static char *copy_of(const void *from, size_t bytes) {
  char *copy = allocate(bytes == 0 ? 1 : bytes);
  memcpy(copy, from, bytes);
  return copy;
}

static int compare(const char *a, size_t a_length, const char *b, size_t b_length) {
  int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
  return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

/* ---- red-black tree, and the memtable on it ------------------------------------------------------------------------------------------------------ */

typedef struct RbNode {
  struct RbNode *left, *right, *parent;
  char *key, *value;
  size_t key_length, value_length;
  bool is_red;
} RbNode;

typedef struct {
  RbNode node;
  uint64_t sequence, time;
  bool is_deleted;
} MemNode;

typedef struct {
  RbNode *root;
  size_t node_bytes;
  uint64_t sequence;
  pthread_rwlock_t lock;
} RbTree;

static void rb_rotate(RbTree *tree, RbNode *node, bool to_left) {
  RbNode *child = to_left ? node->right : node->left;
  RbNode *inner = to_left ? child->left : child->right;
  if (to_left) node->right = inner;
  else node->left = inner;
  if (inner != NULL) inner->parent = node;
  child->parent = node->parent;
  if (node->parent == NULL) tree->root = child;
  else if (node->parent->left == node) node->parent->left = child;
  else node->parent->right = child;
  if (to_left) child->left = node;
  else child->right = node;
  node->parent = child;
}

static void rb_balance(RbTree *tree, RbNode *node) {
  while (node->parent != NULL && node->parent->is_red) {
    RbNode *parent = node->parent, *grandparent = parent->parent;
    bool on_left = grandparent->left == parent;
    RbNode *uncle = on_left ? grandparent->right : grandparent->left;
    if (uncle != NULL && uncle->is_red) {
      parent->is_red = uncle->is_red = false;
      grandparent->is_red = true;
      node = grandparent;
      continue;
    }
    if ((on_left ? parent->right : parent->left) == node) {
      rb_rotate(tree, parent, on_left);
      parent = node;
    }
    parent->is_red = false;
    grandparent->is_red = true;
    rb_rotate(tree, grandparent, !on_left);
    break;
  }
  tree->root->is_red = false;
}

static RbNode *rb_set(RbTree *tree, const char *key, size_t key_length, const char *value, size_t value_length) {
  RbNode *parent = NULL, **link = &tree->root;
  while (*link != NULL) {
    parent = *link;
    int order = compare(key, key_length, parent->key, parent->key_length);
    if (order == 0) {
      free(parent->value);
      parent->value = copy_of(value, value_length);
      parent->value_length = value_length;
      return parent;
    }
    link = order < 0 ? &parent->left : &parent->right;
  }
  RbNode *node = allocate(tree->node_bytes);
  *node = (RbNode){.parent = parent, .key = copy_of(key, key_length), .value = copy_of(value, value_length),
                   .key_length = key_length, .value_length = value_length, .is_red = true};
  *link = node;
  rb_balance(tree, node);
  return node;
}

static RbNode *rb_find(const RbTree *tree, const char *key, size_t key_length) {
  RbNode *node = tree->root;
  while (node != NULL) {
    int order = compare(key, key_length, node->key, node->key_length);
    if (order == 0) return node;
    node = order < 0 ? node->left : node->right;
  }
  return NULL;
}

static void *rb_create(void) {
  RbTree *tree = allocate(sizeof *tree);
  *tree = (RbTree){.node_bytes = sizeof(RbNode)};
  return tree;
}

static void rb_put(void *tree, const char *key, size_t key_length, const char *value, size_t value_length) {
  rb_set(tree, key, key_length, value, value_length);
}

static bool rb_get(void *tree, const char *key, size_t key_length, const char *value) {
  RbNode *node = rb_find(tree, key, key_length);
  return node != NULL && node->value[0] == value[0];
}

static void *mem_create(void) {
  RbTree *tree = allocate(sizeof *tree);
  *tree = (RbTree){.node_bytes = sizeof(MemNode)};
  pthread_rwlock_init(&tree->lock, NULL);
  return tree;
}

static void mem_put(void *of, const char *key, size_t key_length, const char *value, size_t value_length) {
  RbTree *tree = of;
  pthread_rwlock_wrlock(&tree->lock);
  MemNode *node = (MemNode *)rb_set(tree, key, key_length, value, value_length);
  node->sequence = node->time = ++tree->sequence;
  node->is_deleted = false;
  pthread_rwlock_unlock(&tree->lock);
}

static bool mem_get(void *of, const char *key, size_t key_length, const char *value) {
  RbTree *tree = of;
  pthread_rwlock_rdlock(&tree->lock);
  RbNode *node = rb_find(tree, key, key_length);
  char *copy = node == NULL ? NULL : copy_of(node->value, node->value_length);
  pthread_rwlock_unlock(&tree->lock);
  bool is_right = copy != NULL && memcmp(copy, value, VALUE_BYTES) == 0;
  free(copy);
  return is_right;
}

/* ---- hash ------------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct HashNode {
  struct HashNode *next;
  char *key, *value;
  size_t key_length, value_length;
  uint64_t hash;
} HashNode;

typedef struct {
  HashNode *first;
  size_t length;
} Chain;

typedef struct {
  Chain *chains;
  size_t chain_count, entries;
} HashTable;

static uint64_t hash_of(const char *key, size_t length) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)key[i]) * 0x100000001b3u;
  return hash ^ hash >> 32;
}

static Chain *chains_of(size_t count) {
  Chain *chains = calloc(count, sizeof *chains);
  if (chains == NULL) fail("no memory");
  return chains;
}

static void *hash_create(void) {
  HashTable *table = allocate(sizeof *table);
  *table = (HashTable){.chains = chains_of(16), .chain_count = 16};
  return table;
}

static void hash_link(Chain *chains, size_t chain_count, HashNode *node) {
  Chain *chain = &chains[node->hash & (chain_count - 1)];
  node->next = chain->first;
  chain->first = node;
  chain->length++;
}

static void hash_grow(HashTable *table) {
  size_t count = table->chain_count * 2;
  Chain *chains = chains_of(count);
  for (size_t i = 0; i < table->chain_count; i++)
    for (HashNode *node = table->chains[i].first, *next; node != NULL; node = next) {
      next = node->next;
      hash_link(chains, count, node);
    }
  free(table->chains);
  table->chains = chains;
  table->chain_count = count;
}

static HashNode *hash_find(const HashTable *table, const char *key, size_t key_length, uint64_t hash) {
  HashNode *node = table->chains[hash & (table->chain_count - 1)].first;
  while (node != NULL && (node->hash != hash || compare(key, key_length, node->key, node->key_length) != 0))
    node = node->next;
  return node;
}

static void hash_put(void *of, const char *key, size_t key_length, const char *value, size_t value_length) {
  HashTable *table = of;
  uint64_t hash = hash_of(key, key_length);
  HashNode *node = hash_find(table, key, key_length, hash);
  if (node != NULL) {
    free(node->value);
    node->value = copy_of(value, value_length);
    node->value_length = value_length;
    return;
  }
  if (table->entries == table->chain_count) hash_grow(table);
  node = allocate(sizeof *node);
  *node = (HashNode){.key = copy_of(key, key_length), .value = copy_of(value, value_length),
                     .key_length = key_length, .value_length = value_length, .hash = hash};
  hash_link(table->chains, table->chain_count, node);
  table->entries++;
}

static bool hash_get(void *table, const char *key, size_t key_length, const char *value) {
  HashNode *node = hash_find(table, key, key_length, hash_of(key, key_length));
  return node != NULL && node->value[0] == value[0];
}

/* ---- B+Tree ------------------------------------------------------------------------------------------------------------------------------------------ */

enum { ORDER = 100, KEYS_MAX = ORDER - 1, HEIGHT_MAX = 16 };

typedef struct BNode {
  bool is_leaf;
  int count;
  char **keys;
  size_t *key_lengths;
  void **children; /* of a leaf: values */
  size_t *value_lengths;
  struct BNode *next;
} BNode;

typedef struct {
  BNode *root;
  size_t entries;
  pthread_rwlock_t lock;
} BTree;

static BNode *b_node(bool is_leaf) {
  BNode *node = allocate(sizeof *node);
  *node = (BNode){.is_leaf = is_leaf, .keys = allocate(ORDER * sizeof(char *)),
                  .key_lengths = allocate(ORDER * sizeof(size_t)),
                  .children = allocate((ORDER + 1) * sizeof(void *)),
                  .value_lengths = is_leaf ? allocate(ORDER * sizeof(size_t)) : NULL};
  return node;
}

/* The first place whose key is not below `key`; in a branch the first whose key is above it. */
static int b_place(const BNode *node, const char *key, size_t key_length, bool *is_equal) {
  int low = 0, high = node->count;
  *is_equal = false;
  while (low < high) {
    int middle = (low + high) / 2;
    int order = compare(key, key_length, node->keys[middle], node->key_lengths[middle]);
    if (order == 0) {
      *is_equal = true;
      return node->is_leaf ? middle : middle + 1;
    }
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return low;
}

static BNode *b_leaf(const BTree *tree, const char *key, size_t key_length, BNode **path, int *places, int *height) {
  BNode *node = tree->root;
  bool is_equal;
  *height = 0;
  while (!node->is_leaf) {
    int place = b_place(node, key, key_length, &is_equal);
    path[*height] = node;
    places[(*height)++] = place;
    node = node->children[place];
  }
  return node;
}

#define MOVE(array, to, from, count) memmove(&(array)[to], &(array)[from], (size_t)(count) * sizeof *(array))

static void b_open(BNode *node, int place) {
  int after = node->count - place;
  MOVE(node->keys, place + 1, place, after);
  MOVE(node->key_lengths, place + 1, place, after);
  if (node->is_leaf) {
    MOVE(node->children, place + 1, place, after);
    MOVE(node->value_lengths, place + 1, place, after);
  } else {
    MOVE(node->children, place + 2, place + 1, after);
  }
  node->count++;
}

static void b_split(BTree *tree, BNode *node, BNode **path, int *places, int height) {
  while (node->count > KEYS_MAX) {
    BNode *right = b_node(node->is_leaf);
    int half = node->count / 2, from = node->is_leaf ? half : half + 1;
    right->count = node->count - from;
    memcpy(right->keys, &node->keys[from], (size_t)right->count * sizeof *right->keys);
    memcpy(right->key_lengths, &node->key_lengths[from], (size_t)right->count * sizeof *right->key_lengths);
    memcpy(right->children, &node->children[from], (size_t)(right->count + !node->is_leaf) * sizeof(void *));
    char *separator = node->keys[half];
    size_t separator_length = node->key_lengths[half];
    if (node->is_leaf) {
      memcpy(right->value_lengths, &node->value_lengths[from], (size_t)right->count * sizeof(size_t));
      separator = copy_of(separator, separator_length);
      right->next = node->next;
      node->next = right;
    }
    node->count = half;
    BNode *parent;
    int place;
    if (height == 0) {
      parent = b_node(false);
      parent->children[0] = node;
      tree->root = parent;
      place = 0;
    } else {
      parent = path[--height];
      place = places[height];
    }
    b_open(parent, place);
    parent->keys[place] = separator;
    parent->key_lengths[place] = separator_length;
    parent->children[place + 1] = right;
    node = parent;
  }
}

static void b_set(BTree *tree, const char *key, size_t key_length, const char *value, size_t value_length) {
  BNode *path[HEIGHT_MAX];
  int places[HEIGHT_MAX], height;
  bool is_equal;
  BNode *leaf = b_leaf(tree, key, key_length, path, places, &height);
  int place = b_place(leaf, key, key_length, &is_equal);
  if (is_equal) {
    free(leaf->children[place]);
  } else {
    b_open(leaf, place);
    leaf->keys[place] = copy_of(key, key_length);
    leaf->key_lengths[place] = key_length;
    tree->entries++;
  }
  leaf->children[place] = copy_of(value, value_length);
  leaf->value_lengths[place] = value_length;
  b_split(tree, leaf, path, places, height);
}

/* Leaves that become thin stay: less work than the original has. */
static bool b_delete(BTree *tree, const char *key, size_t key_length) {
  BNode *path[HEIGHT_MAX];
  int places[HEIGHT_MAX], height;
  bool is_equal;
  BNode *leaf = b_leaf(tree, key, key_length, path, places, &height);
  int place = b_place(leaf, key, key_length, &is_equal);
  if (!is_equal) return false;
  free(leaf->keys[place]);
  free(leaf->children[place]);
  int after = --leaf->count - place;
  MOVE(leaf->keys, place, place + 1, after);
  MOVE(leaf->key_lengths, place, place + 1, after);
  MOVE(leaf->children, place, place + 1, after);
  MOVE(leaf->value_lengths, place, place + 1, after);
  tree->entries--;
  return true;
}

static char *b_copy(BTree *tree, const char *key, size_t key_length, size_t *length) {
  BNode *path[HEIGHT_MAX];
  int places[HEIGHT_MAX], height;
  bool is_equal;
  BNode *leaf = b_leaf(tree, key, key_length, path, places, &height);
  int place = b_place(leaf, key, key_length, &is_equal);
  if (!is_equal) return NULL;
  *length = leaf->value_lengths[place];
  return copy_of(leaf->children[place], *length);
}

static void *btree_create(void) {
  BTree *tree = allocate(sizeof *tree);
  *tree = (BTree){.root = b_node(true)};
  pthread_rwlock_init(&tree->lock, NULL);
  return tree;
}

static void btree_put(void *of, const char *key, size_t key_length, const char *value, size_t value_length) {
  BTree *tree = of;
  pthread_rwlock_wrlock(&tree->lock);
  b_set(tree, key, key_length, value, value_length);
  pthread_rwlock_unlock(&tree->lock);
}

static char *btree_copy(BTree *tree, const char *key, size_t key_length, size_t *length) {
  pthread_rwlock_rdlock(&tree->lock);
  char *copy = b_copy(tree, key, key_length, length);
  pthread_rwlock_unlock(&tree->lock);
  return copy;
}

static bool btree_get(void *tree, const char *key, size_t key_length, const char *value) {
  size_t length = 0;
  char *copy = btree_copy(tree, key, key_length, &length);
  bool is_right = copy != NULL && length == VALUE_BYTES && memcmp(copy, value, VALUE_BYTES) == 0;
  free(copy);
  return is_right;
}

/* ---- one engine, one thread ------------------------------------------------------------------------------------------------------------------------ */

typedef struct {
  const char *name;
  void *(*create)(void);
  void (*put)(void *, const char *, size_t, const char *, size_t);
  bool (*get)(void *, const char *, size_t, const char *);
} Engine;

static const Engine ENGINES[] = {
    {"rbtree", rb_create, rb_put, rb_get},
    {"memtable", mem_create, mem_put, mem_get},
    {"hash", hash_create, hash_put, hash_get},
    {"btree", btree_create, btree_put, btree_get},
};

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static uint64_t seeded(uint64_t seed) {
  return (seed + 1) * 0x9e3779b97f4a7c15u | 1;
}

static size_t heap_bytes(void) {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *numbers, int count) {
  qsort(numbers, (size_t)count, sizeof *numbers, by_size);
  return numbers[count / 2];
}

/* Keys, each with its value behind it, in the order of their use. */
static char *make_records(size_t count, bool is_shuffled, uint64_t *random) {
  enum { RECORD = KEY_BYTES + VALUE_BYTES };
  char *records = allocate(count * RECORD);
  uint32_t *ids = allocate(count * sizeof *ids);
  for (size_t i = 0; i < count; i++) ids[i] = (uint32_t)i;
  for (size_t i = count; is_shuffled && i > 1; i--) {
    size_t other = next_random(random) % i;
    uint32_t id = ids[i - 1];
    ids[i - 1] = ids[other];
    ids[other] = id;
  }
  for (size_t i = 0; i < count; i++) {
    char text[32];
    snprintf(text, sizeof text, "key:%013u", ids[i]);
    memcpy(records + i * RECORD, text, KEY_BYTES);
    memset(records + i * RECORD + KEY_BYTES, 'a' + (int)(ids[i] % 26), VALUE_BYTES);
  }
  free(ids);
  return records;
}

static void measure(const Engine *engine, size_t count, bool is_shuffled, int rounds, uint64_t seed) {
  enum { RECORD = KEY_BYTES + VALUE_BYTES };
  double *set = allocate((size_t)rounds * sizeof *set), *get = allocate((size_t)rounds * sizeof *get);
  double bytes_per_entry = 0;
  uint64_t random = seeded(seed);
  for (int round = 0; round < rounds; round++) {
    char *records = make_records(count, is_shuffled, &random), *lookups = make_records(count, is_shuffled, &random);
    size_t before = heap_bytes();
    void *store = engine->create();
    double started = seconds();
    for (size_t i = 0; i < count; i++) {
      const char *key = records + i * RECORD;
      engine->put(store, key, KEY_BYTES, key + KEY_BYTES, VALUE_BYTES);
    }
    double filled = seconds();
    size_t right = 0;
    for (size_t i = 0; i < count; i++) {
      const char *key = lookups + i * RECORD;
      right += engine->get(store, key, KEY_BYTES, key + KEY_BYTES);
    }
    double ended = seconds();
    if (right != count) fail("a record is not as written");
    set[round] = (double)count / (filled - started) / 1e6;
    get[round] = (double)count / (ended - filled) / 1e6;
    bytes_per_entry = (double)(heap_bytes() - before) / (double)count;
    free(records);
    free(lookups);
    /* The store stays: the next round shall not find its memory in the order it was freed in. */
  }
  printf("{\"set\":%.4f,\"get\":%.4f,\"bytesPerEntry\":%.2f}\n", median(set, rounds), median(get, rounds), bytes_per_entry);
}

/* ---- the mixed load -------------------------------------------------------------------------------------------------------------------------------- */

typedef struct {
  BTree *tree;
  pthread_barrier_t *barrier;
  int get_share, delete_share;
  size_t operations, keys;
  uint64_t random;
  size_t wrong;
} MixThread;

static size_t mix_key(char *into, size_t bytes, size_t id) {
  return (size_t)snprintf(into, bytes, "thread_%zu_key_%zu", id & 7, id >> 3);
}

static size_t mix_value(char *into, size_t bytes, size_t id, uint64_t salt) {
  size_t length = 16 + salt % 5, at = (size_t)snprintf(into, bytes, "%zu_", id);
  for (; at < length; at++) into[at] = (char)('a' + salt % 26);
  return length;
}

static void *run_mix_thread(void *of) {
  MixThread *thread = of;
  char key[48], value[48];
  pthread_barrier_wait(thread->barrier);
  for (size_t i = 0; i < thread->operations; i++) {
    uint64_t drawn = next_random(&thread->random);
    size_t id = (drawn >> 16) % thread->keys;
    int kind = (int)(drawn % 100);
    size_t key_length = mix_key(key, sizeof key, id);
    if (kind < thread->get_share) {
      size_t length = 0;
      char *copy = btree_copy(thread->tree, key, key_length, &length);
      if (copy != NULL && (length < 16 || strtoull(copy, NULL, 10) != id)) thread->wrong++;
      free(copy);
    } else if (kind < thread->get_share + thread->delete_share) {
      pthread_rwlock_wrlock(&thread->tree->lock);
      b_delete(thread->tree, key, key_length);
      pthread_rwlock_unlock(&thread->tree->lock);
    } else {
      btree_put(thread->tree, key, key_length, value, mix_value(value, sizeof value, id, drawn >> 40));
    }
  }
  pthread_barrier_wait(thread->barrier);
  return NULL;
}

static void measure_mix(int get_share, int delete_share, size_t operations, size_t keys, size_t threads, uint64_t seed) {
  BTree *tree = btree_create();
  char key[48], value[48];
  for (size_t id = 0; id < keys; id++)
    btree_put(tree, key, mix_key(key, sizeof key, id), value, mix_value(value, sizeof value, id, id));
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
  MixThread *parts = allocate(threads * sizeof *parts);
  pthread_t *ids = allocate(threads * sizeof *ids);
  for (size_t i = 0; i < threads; i++) {
    parts[i] = (MixThread){tree, &barrier, get_share, delete_share, operations / threads, keys, seeded(seed * 64 + i), 0};
    if (pthread_create(&ids[i], NULL, run_mix_thread, &parts[i]) != 0) fail("no thread");
  }
  pthread_barrier_wait(&barrier);
  double started = seconds();
  pthread_barrier_wait(&barrier);
  double took = seconds() - started;
  size_t wrong = 0;
  for (size_t i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    wrong += parts[i].wrong;
  }
  if (wrong > 0) fail("a value belongs to another key");
  printf("{\"millionsPerSecond\":%.4f}\n", (double)(operations / threads * threads) / took / 1e6);
}

int main(int count, char **words) {
  if (count == 8 && strcmp(words[1], "mix") == 0) {
    size_t threads = strtoull(words[6], NULL, 10);
    if (threads == 0 || strtoull(words[5], NULL, 10) == 0) fail("no keys or no threads");
    measure_mix(atoi(words[2]), atoi(words[3]), strtoull(words[4], NULL, 10), strtoull(words[5], NULL, 10), threads,
                strtoull(words[7], NULL, 10));
    return 0;
  }
  for (size_t i = 0; count == 6 && i < sizeof ENGINES / sizeof *ENGINES; i++)
    if (strcmp(words[1], ENGINES[i].name) == 0) {
      size_t records = strtoull(words[2], NULL, 10);
      int rounds = atoi(words[4]);
      if (records == 0 || rounds <= 0) fail("no records or no rounds");
      measure(&ENGINES[i], records, strcmp(words[3], "shuffled") == 0, rounds, strtoull(words[5], NULL, 10));
      return 0;
    }
  fail("usage: engines rbtree|memtable|hash|btree RECORDS sequential|shuffled ROUNDS SEED, or engines mix GET% DELETE% OPERATIONS KEYS THREADS SEED");
}
