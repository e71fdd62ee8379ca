using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using static FramePin.Tests.Conformance.SelfTests.Bench;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>
/// guard-regions, each case over anonymous memory, a shared memory file and a shared and a private disk file.
/// </summary>
internal static class GuardCases
{
    private const string Hit = "SigSegvMapErr";
    private const MremapFlags To = MremapFlags.MayMove | MremapFlags.Fixed;

    private static readonly (string Name, int File, MapFlags Type)[] Backings =
    [
        ("anonymous", -1, MapFlags.Private | MapFlags.Anonymous), ("shmem", 0, MapFlags.Shared),
        ("disk", 2, MapFlags.Shared),
        ("private disk", 2, MapFlags.Private),
    ];

    public static IEnumerable<(string Name, Action<Bench> Run)> All =>
        from entry in Cases
        from backing in Backings
        where IsOn(entry.Value.On, backing.File)
        select ($"guard regions {entry.Key}, {backing.Name}",
            (Action<Bench>)(b => entry.Value.Run(b, new Memory(b, backing.File, backing.Type))));

    /// <summary>Which backings a case is about.</summary>
    private enum Kinds
    {
        All,
        Anonymous,
        Files,
        MemoryFile,
    }

    private static bool IsOn(Kinds kinds, int file) => kinds switch
    {
        Kinds.Anonymous => file < 0,
        Kinds.Files => file >= 0,
        Kinds.MemoryFile => file == 0,
        _ => true,
    };

    private sealed record Memory(Bench Bench, int File, MapFlags Type)
    {
        public bool IsAnonymous => File < 0;

        public bool IsShared => (Type & MapFlags.TypeMask) == MapFlags.Shared;

        public void Map(ulong at, int pages, Prot prot = Rw, int offset = 0) =>
            Bench.Is(Text(at), Bench.Mmap(at, pages, prot, Type | MapFlags.Fixed, File, offset));

        /// <summary>What the page of a file held before anybody stored to it; 0 for anonymous memory.</summary>
        public byte First(int page) => IsAnonymous ? (byte)0 : FileSpec.FirstByte(page);
    }

    private static readonly Dictionary<string, (Kinds On, Action<Bench, Memory> Run)> Cases = new()
    {
        ["basic"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Store(At, 1);
            b.Is(Done, Install(b, At, 1));
            b.Is(Hit, b.Load(At));
            b.Is(Hit, b.TryStore(At, 1));
            b.Store(P(1), 2);
            b.Is(Done, Install(b, At, 10));
            for (var page = 0; page < 10; page++) b.Is(Hit, b.Load(P(page)));
            b.Is(Done, Remove(b, At, 10));
            // Anonymous pages come back as zeroes, a file's with what the file holds.
            b.Loads(At, memory.IsShared ? (byte)1 : memory.First(0));
            b.Store(P(9), 3);
            b.Is(Done, b.Munmap(At, 10));
        }
        ),
        ["multi_vma"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 2);
            memory.Map(P(4), 2, offset: 4);
            memory.Map(P(2), 2, Prot.Read, offset: 2);
            b.Is(Done, Install(b, At, 6));
            for (var page = 0; page < 6; page++) b.Is(Hit, b.Load(P(page)));
            b.Is(Done, Remove(b, At, 6));
            for (var page = 0; page < 6; page++) b.Loads(P(page), memory.First(page));
            b.Is(Done, b.Munmap(P(2), 2));
            // A hole is told, and what lies on both sides of it is guarded.
            b.Is("-ENOMEM", Install(b, At, 6));
            b.Is(Hit, b.Load(At));
            b.Is(Hit, b.Load(P(5)));
        }
        ),
        ["munmap"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, Install(b, At, 1));
            b.Is(Done, Install(b, P(9), 1));
            b.Is(Done, b.Munmap(At, 1));
            b.Is(Done, b.Munmap(P(9), 1));
            memory.Map(At, 1);
            b.Loads(At, memory.First(0));
            memory.Map(P(9), 1, offset: 9);
            b.Loads(P(9), memory.First(9));
        }
        ),
        ["mprotect"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, Install(b, P(5), 2));
            b.Is(Done, b.Mprotect(At, 10, Prot.Read));
            b.Is(Hit, b.Load(P(5)));
            b.Is(Hit, b.Load(P(6)));
            b.Is(Done, b.Mprotect(At, 10, Rw));
            b.Is(Hit, b.TryStore(P(6), 1));
            b.Loads(P(4), memory.First(4));
        }
        ),
        ["split_merge"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            for (var page = 0; page < 10; page += 2) b.Is(Done, Install(b, P(page), 1));
            b.IsAreas(At, P(10), memory.IsShared ? "0-10:rw-s" : "0-10:rw-p");
            b.Is(Done, b.Mprotect(P(2), 5, Prot.Read));
            b.Is(Done, b.Mprotect(P(2), 5, Rw));
            for (var page = 0; page < 10; page++)
                if (page % 2 == 0) b.Is(Hit, b.Load(P(page)));
                else b.Loads(P(page), memory.First(page));
            b.IsAreas(At, P(10), memory.IsShared ? "0-10:rw-s" : "0-10:rw-p");
            b.Is(Done, Remove(b, At, 10));
            b.Loads(P(4), memory.First(4));
        }
        ),
        ["dontneed"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            for (var page = 0; page < 10; page++) b.Store(P(page), (byte)'y');
            for (var page = 0; page < 10; page += 2) b.Is(Done, Install(b, P(page), 1));
            b.Is(Done, b.Madvise(At, 10, Advice.DontNeed));
            for (var page = 0; page < 10; page++)
                if (page % 2 == 0) b.Is(Hit, b.Load(P(page)));
                else b.Loads(P(page), memory.IsShared ? (byte)'y' : memory.First(page));
        }
        ),
        ["mlock"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.StoreEach(At, 10, (byte)'y');
            b.Is(Done, b.Mlock(At, 10));
            // Installing drops pages, which locked memory forbids; removing does not.
            b.Is("-EINVAL", Install(b, At, 10));
            b.LoadsEach(At, 10, (byte)'y');
            b.Is(Done, b.Munlock(P(5), 5));
            b.Is(Done, Install(b, P(5), 5));
            b.Is(Done, b.Mlock(At, 5));
            b.Is(Hit, b.Load(P(5)));
            b.Is(Done, Remove(b, At, 10));
            b.Loads(P(5), memory.IsShared ? (byte)'y' : memory.First(5));
        }
        ),
        ["mremap_move"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 5);
            b.Is(Done, Install(b, At, 1));
            b.Is(Done, Install(b, P(4), 1));
            b.Is(Text(Other), b.Mremap(At, 5, 5, To, Other));
            b.Is(Hit, b.Load(Other));
            b.Is(Hit, b.Load(P(4, Other)));
            b.Loads(P(2, Other), memory.First(2));
        }
        ),
        ["mremap_expand"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 5);
            b.Is(Done, Install(b, At, 1));
            b.Is(Done, Install(b, P(4), 1));
            b.Is(Text(At), b.Mremap(At, 5, 10));
            b.Is(Hit, b.Load(At));
            b.Is(Hit, b.Load(P(4)));
            b.Loads(P(5), memory.First(5));
            b.Is(Text(Other), b.Mremap(At, 10, 12, To, Other));
            b.Is(Hit, b.Load(Other));
            b.Is(Hit, b.Load(P(4, Other)));
        }
        ),
        ["mremap_shrink"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 5);
            b.Is(Done, Install(b, At, 5));
            b.Is(Text(At), b.Mremap(At, 5, 3));
            for (var page = 0; page < 3; page++) b.Is(Hit, b.Load(P(page)));
            b.Is(Text(At), b.Mremap(At, 3, 5));
            b.Is(Hit, b.Load(P(2)));
            b.Loads(P(3), memory.First(3));
        }
        ),
        ["fork"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, Install(b, At, 5));
            b.Process = b.Fork();
            for (var page = 0; page < 10; page++)
                if (page < 5) b.Is(Hit, b.Load(P(page)));
                else b.Loads(P(page), memory.First(page));
            // The child's removal is its own.
            b.Is(Done, Remove(b, At, 10));
            b.Process = 0;
            b.Is(Hit, b.Load(At));
        }
        ),
        ["fork_cow"] = (Kinds.Anonymous, (b, memory) =>
        {
            memory.Map(At, 10);
            for (var page = 0; page < 10; page++) b.Store(P(page), (byte)('a' + page));
            b.Process = b.Fork();
            for (var page = 0; page < 10; page++) b.Loads(P(page), (byte)('a' + page));
            b.Is(Done, Install(b, At, 5));
            b.Process = 0;
            for (var page = 0; page < 10; page++) b.Loads(P(page), (byte)('a' + page));
            b.Process = 1;
            b.Is(Done, Remove(b, At, 5));
            b.LoadsEach(At, 5, 0);
        }
        ),
        ["fork_wipeonfork"] = (Kinds.Anonymous, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, b.Madvise(At, 10, Advice.WipeOnFork));
            b.Is(Done, Install(b, At, 5));
            b.Process = b.Fork();
            b.LoadsEach(At, 10, 0);
            b.Process = 0;
            b.Is(Hit, b.Load(At));
        }
        ),
        ["lazyfree"] = (Kinds.Anonymous, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, Install(b, At, 10));
            b.Is(Done, b.Madvise(At, 10, Advice.Free));
            for (var page = 0; page < 10; page++) b.Is(Hit, b.Load(P(page)));
        }
        ),
        ["populate"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, Install(b, At, 10));
            b.Is("-EFAULT", b.Madvise(At, 10, Advice.PopulateRead));
            b.Is("-EFAULT", b.Madvise(At, 10, Advice.PopulateWrite));
            b.Is(Done, Remove(b, At, 10));
            b.Is(Done, b.Madvise(At, 10, Advice.PopulateWrite));
            b.LoadsEach(At, 1, memory.First(0));
        }
        ),
        ["cold"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is(Done, Install(b, P(2), 4));
            b.Is(Done, b.Madvise(At, 10, Advice.Cold));
            b.Is(Hit, b.Load(P(2)));
            b.Loads(P(7), memory.First(7));
        }
        ),
        ["smaps"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Is("False", $"{b.Flags(At).Split(' ').Contains("gu")}");
            b.Is(Done, Install(b, P(3), 1));
            b.IsAreas(At, P(10), memory.IsShared ? "0-10:rw-s" : "0-10:rw-p");
            // The flag of the whole area, which stays when the last guard is gone.
            b.Is("True", $"{b.Flags(At).Split(' ').Contains("gu")}");
            b.Is(Done, Remove(b, P(3), 1));
            b.Is("True", $"{b.Flags(At).Split(' ').Contains("gu")}");
        }
        ),
        ["anon_zeropage"] = (Kinds.Anonymous, (b, memory) =>
        {
            memory.Map(At, 10);
            b.LoadsEach(At, 10, 0);
            b.Is(Done, Install(b, At, 10));
            for (var page = 0; page < 10; page++) b.Is(Hit, b.Load(P(page)));
            b.Is(Done, Remove(b, At, 10));
            b.LoadsEach(At, 10, 0);
        }
        ),
        ["pagemap"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 4);
            b.Is("- - - -", b.Run(StepKind.Pagemap, At, 4 * Page));
            b.Is(Done, Install(b, P(1), 1));
            b.Is("- S:G - -", b.Run(StepKind.Pagemap, At, 4 * Page));
            b.Is(Done, Remove(b, P(1), 1));
            b.Is("- - - -", b.Run(StepKind.Pagemap, At, 4 * Page));
        }
        ),
        ["hole_punch"] = (Kinds.Files, (b, memory) =>
        {
            memory.Map(At, 10);
            b.Loads(P(1), memory.First(1));
            b.Is(Done, Install(b, P(3), 4));
            b.Is(Done, b.Run(StepKind.PunchHole, (ulong)memory.File, 3 * Page, 4 * Page));
            b.Is(Hit, b.Load(P(3)));
            b.Is(Done, Remove(b, P(3), 4));
            b.LoadsEach(P(3), 4, 0);
        }
        ),
        ["memfd_write_seal"] = (Kinds.MemoryFile, (b, memory) =>
        {
            b.Is(Done, b.Run(StepKind.Seal, 0));
            memory.Map(At, 10, Prot.Read);
            b.Is(Done, Install(b, At, 10));
            b.Is(Hit, b.Load(P(4)));
            b.Is(Done, Remove(b, At, 10));
            b.Loads(P(4), memory.First(4));
        }
        ),
        ["refused on hugetlb and special mappings"] = (Kinds.Anonymous, (b, _) =>
        {
            const ulong aligned = 0x4000_0000;
            b.Is(Text(aligned), b.Mmap(aligned, 512, Rw, MapFlags.Private | MapFlags.Fixed, file: 6));
            b.Is("-EINVAL", Install(b, aligned, 512));
        }
        ),
        ["a pin stops at a guard"] = (Kinds.All, (b, memory) =>
        {
            memory.Map(At, 4);
            b.Is(Done, Install(b, P(2), 1));
            b.Is("0x2000", b.Run(StepKind.CopyFrom, At, 4 * Page));
            b.Is("-EFAULT", b.Run(StepKind.Register, P(2), Page));
        }
        ),
    };

    private static string Install(Bench b, ulong at, int pages) => b.Madvise(at, pages, Advice.GuardInstall);

    private static string Remove(Bench b, ulong at, int pages) => b.Madvise(at, pages, Advice.GuardRemove);
}
