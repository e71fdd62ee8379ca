using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;

namespace FramePin.Core.Backing;

/// <summary>What kind of file system a memory file is on.</summary>
public enum FileKind
{
    /// <summary>memfd, tmpfs, shared anonymous memory: no dirty tracking, no write-back.</summary>
    Shmem,
    /// <summary>An ordinary disk file system (ext4-like): dirty pages are tracked and written back.</summary>
    Disk,
    /// <summary>hugetlbfs: pages from the machine's pool.</summary>
    HugeTlb,
    /// <summary>memfd_secret: not even the kernel looks at it; GUP refuses.</summary>
    Secret,
    /// <summary>A file system with direct access to storage.</summary>
    FsDax,
}

/// <summary>
/// A memory file: size, page cache, and what its file system does with dirty pages. The cache holds one reference on
/// each of its folios.
/// </summary>
/// <remarks>Guarded by the turn. Owned by the machine; it lives while it has a name or a VMA maps it.</remarks>
internal sealed partial class MemoryFile
{
    private readonly PhysicalMemory _memory;
    private readonly FileCache _cache;
    private readonly HashSet<ulong> _unread = [];

    /// <summary>
    /// Contents of pages that reclaim took out of the cache, by index: what the disk holds, or swap for a memory file.
    /// </summary>
    private readonly Dictionary<ulong, byte[]> _stored = [];
    private readonly SwapDevice? _swap;

    /// <summary>
    /// Pages of a memory file that MADV_WILLNEED read back: in the swap cache, and not in the file's yet.
    /// </summary>
    private readonly HashSet<ulong> _readBack = [];

    internal MemoryFile(
        int id, string name, FileKind kind, int hugeOrder, PhysicalMemory memory, PageTable cache, SwapDevice? swap)
    {
        Id = id;
        Name = name;
        Kind = kind;
        Order = hugeOrder;
        _memory = memory;
        _cache = new FileCache(cache);
        _swap = swap;
    }

    /// <summary>Number within the machine, from 1; what frames record as their mapping.</summary>
    public int Id { get; }

    /// <summary>Path as maps shows it.</summary>
    public string Name { get; internal set; }

    public FileKind Kind { get; }

    /// <summary>log2 of the frames of each folio of the cache: 0, or the huge page order of hugetlbfs.</summary>
    public int Order { get; }

    /// <summary>Size in bytes.</summary>
    public ulong Size { get; internal set; }

    /// <summary>The name is gone; the file goes with its last mapping.</summary>
    public bool Unlinked { get; internal set; }

    /// <summary>The areas that map the file, in every address space (i_mmap).</summary>
    internal ReverseMap Mappings { get; } = new();

    /// <summary>VMAs that map the file, over all address spaces.</summary>
    public int MappingCount => Mappings.Count;

    /// <summary>F_SEAL_WRITE: no new shared writable mapping, no write.</summary>
    public bool WriteSealed { get; internal set; }

    /// <summary>Device and inode as maps shows them, for imported files ("fe:00", 331651).</summary>
    public string DeviceNumber { get; internal set; } = "00:01";

    public ulong Inode { get; internal set; }

    public bool TracksDirty => Kind == FileKind.Disk;

    /// <summary>fsync is there, if only to do nothing (noop_fsync); secret memory has none.</summary>
    public bool HasFsync => Kind != FileKind.Secret;

    /// <summary>
    /// The file system asks for huge-page placement of its mappings (ext4 and its like; Semantics 0.1).
    /// </summary>
    public bool HasHugePlacement => Kind is FileKind.Disk or FileKind.FsDax;

    /// <summary>
    /// A task that may write the file may learn by mincore which of its pages are cached; so may the file's owner and
    /// an administrator (mm/mincore.c: can_do_mincore).
    /// </summary>
    public bool OthersMayWrite { get; internal set; } = true;

    /// <summary>
    /// The file system has page <paramref name="index"/> in its cache without its contents: it wanted to zero a part of
    /// it and found a hole (ext4_block_zero_page_range). Nobody sees such a page before a fault on it reads it.
    /// </summary>
    internal void NoteUnread(ulong index)
    {
        if (Kind == FileKind.Disk && Lookup(index) is null) _unread.Add(index);
    }

    /// <summary>What the disk holds of a page that is not cached; null for a hole.</summary>
    internal byte[]? Stored(ulong index) => _stored.Count > 0 ? _stored.GetValueOrDefault(index) : null;

    /// <summary>
    /// Reclaim of a page that nobody else uses. A clean one is on the disk, or nothing but zeroes in a memory file; a
    /// dirty one of a memory file goes to swap (shmem_writeout). False: it is dirty and there is no room for it.
    /// </summary>
    internal bool Evict(ulong index)
    {
        var head = Lookup(index)!.Value;
        var isDirty = (_memory.Frames[head].Flags & FrameFlags.Dirty) != 0;
        if (isDirty && (Kind != FileKind.Shmem || _swap is null || !_swap.TryReserve())) return false;
        var bytes = _memory.Bytes.Of(head).ToArray();
        Remove(index, 1);
        if (isDirty || Kind == FileKind.Disk) _stored[index] = bytes;
        return true;
    }

    /// <summary>
    /// MADV_WILLNEED on a page that is in swap: it is resident from now on, but the file has it only when asked
    /// (shmem_swapin_range).
    /// </summary>
    internal void ReadBack(ulong index)
    {
        if (Kind == FileKind.Shmem && _stored.ContainsKey(index)) _readBack.Add(index);
    }

    /// <summary>mincore_page: cached, or in the swap cache.</summary>
    internal bool IsResident(ulong index) =>
        Lookup(index) is not null || (_readBack.Count > 0 && _readBack.Contains(index));

    /// <summary>Takes what is stored of a page; null for nothing.</summary>
    private byte[]? Unstore(ulong index)
    {
        if (!_stored.Remove(index, out var bytes)) return null;
        if (Kind == FileKind.Shmem) _swap!.Unreserve();
        _readBack.Remove(index);
        return bytes;
    }

    /// <summary>The pages that only the disk has; empty, as mostly, without a walk.</summary>
    internal IReadOnlySet<ulong> StoredPages() =>
        _stored.Count > 0 ? _stored.Keys.ToHashSet() : System.Collections.Frozen.FrozenSet<ulong>.Empty;

    internal bool IsUnread(ulong index) => _unread.Count > 0 && _unread.Contains(index);

    /// <summary>Frames in the cache.</summary>
    public ulong CachedFrames { get; private set; }

    /// <summary>The cached frame at page <paramref name="index"/>; null when the page is not cached.</summary>
    internal Pfn? Lookup(ulong index)
    {
        var entry = _cache.Read(index);
        if (entry == 0) return null;
        var within = Order == 0 ? 0 : index & ((1UL << Order) - 1);
        return Pte.PfnOf(entry) + within;
    }

    /// <summary>
    /// Puts a fresh folio at <paramref name="index"/>; the file takes over the caller's reference. False: no table
    /// left.
    /// </summary>
    internal bool Insert(ulong index, Pfn head)
    {
        var slot = _cache.Ensure(index, Order);
        if (!slot.Exists) return false;
        _cache[slot] = Pte.Leaf(head, Order == 0 ? Pte.Present : Pte.Present | Pte.Huge);
        _unread.Remove(index);
        var info = _memory.Frames[head];
        if (Unstore(index) is { } bytes)
        {
            bytes.CopyTo(_memory.Bytes.Of(head));
            // Its slot is gone: nothing else has these contents.
            if (Kind == FileKind.Shmem) info.Flags |= FrameFlags.Dirty;
        }

        info.FileId = Id;
        info.Index = index;
        info.Flags |= FrameFlags.InCache | (TracksDirty ? FrameFlags.DirtyTracked : 0)
            | (Kind == FileKind.Secret ? FrameFlags.Secret : 0);
        CachedFrames += 1UL << Order;
        return true;
    }

    /// <summary>
    /// Replaces the frame at <paramref name="index"/> by <paramref name="fresh"/> (migration), reference and all.
    /// </summary>
    internal void Replace(ulong index, Pfn fresh)
    {
        var slot = _cache.Find(index);
        var old = Pte.PfnOf(_cache[slot]);
        var from = _memory.Frames[old];
        var to = _memory.Frames[fresh];
        to.Flags |= from.Flags & (FrameFlags.InCache | FrameFlags.DirtyTracked | FrameFlags.Dirty | FrameFlags.Secret);
        to.FileId = Id;
        to.Index = index;
        from.Flags &= ~(FrameFlags.InCache | FrameFlags.Dirty);
        from.FileId = 0;
        _cache[slot] = Pte.Leaf(fresh, Order == 0 ? Pte.Present : Pte.Present | Pte.Huge);
        _memory.Put(old);
    }

    /// <summary>
    /// Takes the pages of [<paramref name="first"/>, <paramref name="first"/> + <paramref name="count"/>) out of the
    /// cache (truncate_inode_pages). The caller has unmapped them; pinned ones survive without mapping.
    /// </summary>
    internal void Remove(ulong first, ulong count)
    {
        if (_unread.Count > 0) _unread.RemoveWhere(index => index >= first && index - first < count);
        foreach (var index in _stored.Keys)
            if (index >= first && index - first < count) Unstore(index);
        var folios = _cache.Folios(first, count);
        while (folios.MoveNext())
        {
            var (index, head) = folios.Current;
            folios.Entry = 0;
            var info = _memory.Frames[head];
            info.Flags &= ~(FrameFlags.InCache | FrameFlags.Dirty | FrameFlags.DirtyTracked);
            info.FileId = 0;
            CachedFrames -= 1UL << Order;
            // A page that is punched out takes its entry along (region_del).
            if (Pool is not null) _promised.Remove(index >> Order);
            _memory.Put(head);
        }

        _cache.Prune(first, count);
    }

    /// <summary>Every cached folio with its page index, ascending, for <c>foreach</c>.</summary>
    internal FileCache.FolioCursor CachedFolios() => _cache.Folios(0, ulong.MaxValue);

    internal int TableCount => _cache.CountTables();

    /// <summary>Drops the whole cache and its tables. The file must not be mapped.</summary>
    internal void Destroy()
    {
        Truncate(0);
        _cache.Destroy();
    }
}
