/*
 * The cable: joins pairs of TAP devices, each in a namespace of its own, and lets every Ethernet frame arrive late,
 * or not at all. For kernels without tc netem, and so that a test can pull the cable.
 *
 *   namespace A  [tap] -- read --> ring (due time, length, frame) -- write --> [tap]  namespace B
 *                      <------------------- and a ring back -------------------
 *
 * Commands are lines on stdin, answered in order by one line on stdout, "ok ..." or "error ...":
 *
 *   add NAME NSPATH_A IF_A MAC_A NSPATH_B IF_B MAC_B SETTINGS   makes the devices, which live as long as this process
 *   set NAME SETTINGS
 *   stats NAME          ok, then for A->B and B->A each: frames, bytes, lost, overflowed
 *   SETTINGS is         DELAY_US JITTER_US LOSS_PPM RATE_KBIT QUEUE_US UP   (0 is no loss, no rate; UP is 0 or 1)
 *
 * Each direction: loss first, then the bottleneck (a queue of QUEUE_US at RATE_KBIT, what does not fit is dropped), then
 * the delay. Jitter delays and never reorders. A cable that is out loses what is on it. One thread a link; no allocation
 * per frame. The end of stdin ends the process, and with it every device: an owner that dies leaves nothing behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_LINKS 512
#define FRAME_MAX 2048         /* a 1500 byte packet and its Ethernet header, with room */
#define RING_BYTES (32u << 20) /* 150 MB/s for 200 ms; address space only, pages are used as traffic needs them */
#define BATCH 64               /* frames read before what is due is written */
#define COALESCE_NS 200000     /* frames due within 200 us leave together: fewer wake-ups, far below the 1 ms wanted */
#define TAP_QUEUE 10000        /* frames a device holds while this process waits for a core; the default 1000 loses some */
#define WRAP UINT32_MAX

struct record {
  uint64_t due;
  uint32_t length; /* WRAP: the next record is at the beginning */
  uint32_t unused;
  uint8_t frame[];
};

struct settings {
  uint64_t delay_ns, jitter_ns, rate_kbit, queue_ns;
  uint32_t loss_ppm;
  int up;
};

struct direction {
  int in, out;
  uint8_t *ring;
  size_t head, tail, used; /* used counts records */
  uint64_t last_due, line_free;
  _Atomic uint64_t frames, bytes, lost, overflowed;
};

struct link {
  char name[128];
  pthread_mutex_t lock; /* guards settings */
  struct settings settings;
  struct direction way[2];
  uint64_t random;
};

static struct link *links[MAX_LINKS];
static int link_count;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(struct link *l) { /* xorshift64 */
  l->random ^= l->random << 13;
  l->random ^= l->random >> 7;
  l->random ^= l->random << 17;
  return l->random;
}

static void count(_Atomic uint64_t *counter, uint64_t n) { atomic_fetch_add_explicit(counter, n, memory_order_relaxed); }

/* Room for the biggest frame at the tail, or NULL. */
static struct record *reserve(struct direction *d) {
  size_t need = sizeof(struct record) + FRAME_MAX;
  if (d->used == 0) d->head = d->tail = 0; /* an idle link keeps using the same few pages */
  if (d->tail >= d->head) {
    if (RING_BYTES - d->tail >= need + sizeof(struct record)) return (struct record *)(d->ring + d->tail);
    if (d->used == 0 || d->head <= need) return NULL;
    ((struct record *)(d->ring + d->tail))->length = WRAP;
    d->tail = 0;
  }
  return d->head - d->tail > need ? (struct record *)(d->ring + d->tail) : NULL;
}

static void commit(struct direction *d, const struct record *r) {
  d->tail += (sizeof *r + r->length + 15u) & ~(size_t)15;
  d->used++;
}

static struct record *first(struct direction *d) {
  if (d->used == 0) return NULL;
  struct record *r = (struct record *)(d->ring + d->head);
  if (r->length == WRAP) {
    d->head = 0;
    r = (struct record *)d->ring;
  }
  return r;
}

static void drop_first(struct direction *d, const struct record *r) {
  d->head += (sizeof *r + r->length + 15u) & ~(size_t)15;
  d->used--;
}

/* When a frame that came now is to leave; 0 when it is lost. */
static uint64_t schedule(struct link *l, struct direction *d, const struct settings *s, uint64_t now, size_t length) {
  if (!s->up || (s->loss_ppm && next_random(l) % 1000000u < s->loss_ppm)) {
    count(&d->lost, 1);
    return 0;
  }
  uint64_t due = now;
  if (s->rate_kbit) {
    if (d->line_free < now) d->line_free = now;
    if (d->line_free - now > s->queue_ns) {
      count(&d->overflowed, 1);
      return 0;
    }
    d->line_free += length * 8000000u / s->rate_kbit;
    due = d->line_free;
  }
  due += s->delay_ns;
  if (s->jitter_ns) due += next_random(l) % s->jitter_ns;
  if (due < d->last_due) due = d->last_due;
  return d->last_due = due;
}

/* Takes what has come, at most a batch. */
static int take(struct link *l, struct direction *d, const struct settings *s) {
  uint8_t scratch[FRAME_MAX];
  int n = 0;
  uint64_t now = now_ns();
  for (; n < BATCH; n++) {
    struct record *r = reserve(d);
    ssize_t got = read(d->in, r ? r->frame : scratch, FRAME_MAX);
    if (got <= 0) break;
    if (!r) {
      count(&d->overflowed, 1);
      continue;
    }
    uint64_t due = schedule(l, d, s, now, (size_t)got);
    if (due == 0) continue;
    r->due = due;
    r->length = (uint32_t)got;
    commit(d, r);
  }
  return n;
}

static void give(struct direction *d, const struct settings *s) {
  uint64_t now = now_ns();
  for (struct record *r; (r = first(d)) && r->due <= now; drop_first(d, r)) {
    if (!s->up || write(d->out, r->frame, r->length) < 0) {
      count(&d->lost, 1);
      continue;
    }
    count(&d->frames, 1);
    count(&d->bytes, r->length);
  }
}

static void *run(void *argument) {
  struct link *l = argument;
  prctl(PR_SET_TIMERSLACK, 1);
  struct pollfd fds[2] = {{.fd = l->way[0].in, .events = POLLIN}, {.fd = l->way[1].in, .events = POLLIN}};
  for (;;) {
    uint64_t due = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      struct record *r = first(&l->way[i]);
      if (r && r->due < due) due = r->due;
    }
    struct timespec wait, *timeout = NULL;
    if (due != UINT64_MAX) {
      uint64_t now = now_ns(), ns = due > now + COALESCE_NS ? due - now : COALESCE_NS;
      if (due <= now) ns = 0;
      wait = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
      timeout = &wait;
    }
    if (ppoll(fds, 2, timeout, NULL) < 0 && errno != EINTR) return NULL;
    pthread_mutex_lock(&l->lock);
    struct settings s = l->settings;
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < 2; i++) {
      if (fds[i].revents & POLLIN) take(l, &l->way[i], &s);
      give(&l->way[i], &s);
    }
  }
}

/* A device in a namespace. This thread stays in that namespace. */
static int open_tap(const char *ns_path, const char *name, const char *mac) {
  int ns = open(ns_path, O_RDONLY | O_CLOEXEC);
  if (ns < 0 || setns(ns, CLONE_NEWNET) < 0) return -1;
  close(ns);
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -1;
  struct ifreq r = {0};
  r.ifr_flags = IFF_TAP | IFF_NO_PI;
  strncpy(r.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, TUNSETIFF, &r) < 0) return -1;
  unsigned b[6];
  if (sscanf(mac, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]) != 6) {
    errno = EINVAL;
    return -1;
  }
  r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  for (int i = 0; i < 6; i++) r.ifr_hwaddr.sa_data[i] = (char)b[i];
  if (ioctl(fd, SIOCSIFHWADDR, &r) < 0) return -1;
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  r.ifr_qlen = TAP_QUEUE;
  if (s < 0 || ioctl(s, SIOCSIFTXQLEN, &r) < 0) return -1;
  close(s);
  return fd;
}

static int read_settings(const char *text, struct settings *s) {
  unsigned long long delay_us, jitter_us, loss, rate, queue_us;
  int up;
  if (sscanf(text, "%llu %llu %llu %llu %llu %d", &delay_us, &jitter_us, &loss, &rate, &queue_us, &up) != 6) return -1;
  *s = (struct settings){delay_us * 1000, jitter_us * 1000, rate, queue_us * 1000, (uint32_t)loss, up};
  return 0;
}

static struct link *find(const char *name) {
  for (int i = 0; i < link_count; i++)
    if (strcmp(links[i]->name, name) == 0) return links[i];
  return NULL;
}

static const char *add(const char *line) {
  char ns[2][256], dev[2][IFNAMSIZ], mac[2][18];
  int at = 0;
  struct link *l = calloc(1, sizeof *l);
  if (!l || link_count == MAX_LINKS) return "too many links";
  if (sscanf(line, "add %127s %255s %15s %17s %255s %15s %17s %n", l->name, ns[0], dev[0], mac[0], ns[1], dev[1],
             mac[1], &at) != 7 || at == 0 || read_settings(line + at, &l->settings) < 0)
    return "add: malformed";
  int fd[2];
  for (int i = 0; i < 2; i++) {
    if ((fd[i] = open_tap(ns[i], dev[i], mac[i])) < 0) return strerror(errno);
    l->way[i].ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (l->way[i].ring == MAP_FAILED) return strerror(errno);
  }
  for (int i = 0; i < 2; i++) {
    l->way[i].in = fd[i];
    l->way[i].out = fd[1 - i];
  }
  l->random = now_ns() * 2654435761u + (uint64_t)link_count + 1;
  pthread_mutex_init(&l->lock, NULL);
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, l) != 0) return "no thread";
  links[link_count++] = l;
  return NULL;
}

static const char *set(struct link *l, const char *text) {
  struct settings s;
  if (read_settings(text, &s) < 0) return "set: malformed";
  pthread_mutex_lock(&l->lock);
  l->settings = s;
  pthread_mutex_unlock(&l->lock);
  return NULL;
}

int main(void) {
  /* Before everything else on the machine: a cable does not wait for a core. Refused in some containers, then less so. */
  struct sched_param first_among_many = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_RR, &first_among_many) < 0) setpriority(PRIO_PROCESS, 0, -20);
  setvbuf(stdout, NULL, _IOLBF, 0);
  char line[2048], verb[16], name[128];
  while (fgets(line, sizeof line, stdin)) {
    int at = 0;
    const char *error = "unknown command";
    struct link *l = NULL;
    if (sscanf(line, "%15s %127s %n", verb, name, &at) < 2) error = "malformed";
    else if (strcmp(verb, "add") == 0) error = add(line);
    else if (!(l = find(name))) error = "no such link";
    else if (strcmp(verb, "set") == 0) error = set(l, line + at);
    else if (strcmp(verb, "stats") == 0) {
      printf("ok");
      for (int i = 0; i < 2; i++)
        printf(" %llu %llu %llu %llu", (unsigned long long)l->way[i].frames, (unsigned long long)l->way[i].bytes,
               (unsigned long long)l->way[i].lost, (unsigned long long)l->way[i].overflowed);
      printf("\n");
      continue;
    }
    if (error) printf("error %s\n", error);
    else printf("ok\n");
  }
  return 0;
}
