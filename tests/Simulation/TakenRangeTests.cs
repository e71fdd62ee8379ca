using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using Xunit;

namespace FramePin.Tests.Simulation;

/// <summary>
/// The ranges that a command says it takes, against the pages that it really took: random commands over a few processes
/// and files, each page looked at before and after.
/// </summary>
public sealed class TakenRangeTests : IDisposable
{
    private const ulong Base = 0x10_0000;
    private const ulong Page = 4096;
    private const int Window = 24;
    private const int Steps = 6_000;

    private readonly Machine _machine = new("taken", new MachineOptions
    {
        Profile = KernelProfile.Recorded,
        Memory = 16UL << 20,
        MovableMemory = 8UL << 20,
        Swap = 1UL << 20,
        TracksSoftDirty = true,
    });

    private readonly List<SpaceId> _spaces = [];
    private readonly List<FileId> _files = [];
    private readonly List<FrameVector> _vectors = [];
    private readonly int _seed = ModelTests.Seed;
    private readonly SortedDictionary<TakeCause, int> _seen = [];
    private int _silentChanges;
    private int _vainAnnouncements;

    public void Dispose() => _machine.Dispose();

    [Fact]
    public void Every_page_that_goes_was_announced_and_refused_calls_announce_nothing()
    {
        var random = new Random(_seed);
        _spaces.Add(New());
        foreach (var kind in new[] { FileKind.Shmem, FileKind.Disk })
            _files.Add(new FileId((int)_machine.Call(new CreateFileCall($"/{kind}", kind, 12 * Page)).Value));
        for (var step = 0; step < Steps; step++) One(random);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"seed {_seed}: {string.Join(", ", _seen.Select(pair => $"{pair.Value} {pair.Key}"))}");
        Assert.True(_silentChanges == 0, $"seed {_seed}: {_silentChanges} pages went without a word");
        Assert.True(_vainAnnouncements == 0, $"seed {_seed}: {_vainAnnouncements} calls announced and were refused");
        var expected = Enum.GetValues<TakeCause>().Except([TakeCause.HugeTheft]);
        Assert.True(expected.All(_seen.ContainsKey), $"seed {_seed}: only {string.Join(", ", _seen.Keys)} were met");
    }

    [Fact]
    public void A_fork_that_will_lose_its_huge_page_to_the_owner_is_announced()
    {
        var options = new MachineOptions { Profile = KernelProfile.Recorded, Memory = 16UL << 20, HugePages2M = 1 };
        using var machine = new Machine("theft", options);
        var owner = new SpaceId((int)machine.Call(
            new CreateSpaceCall("owner", new AddressSpaceLayout(), new TaskState())).Value);
        const ulong at = 0x4000_0000;
        const MapFlags flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb;
        Assert.True(machine.Call(new MmapCall(owner, at, 2UL << 20, Prot.Read | Prot.Write, flags)).IsOk);
        machine.Execute<TouchCall, AccessResult>(new(owner, at, 1, IsWrite: true));
        var child = new SpaceId((int)machine.Call(new ForkCall(owner, "child")).Value);

        var store = new TouchCall(owner, at, 1, IsWrite: true);
        var taken = machine.TakenBy(store);
        machine.Execute<TouchCall, AccessResult>(store);

        Assert.Null(machine.Query<TranslateQuery, Pfn?>(new(child, at)));
        Assert.Contains(
            new TakenRange(child, new AddressRange(at, at + (2UL << 20)), TakeCause.HugeTheft), taken);
    }

    [Fact]
    public void Calls_on_huge_pages_announce_whole_huge_pages()
    {
        const ulong at = 0x4000_0000;
        const ulong huge = 2UL << 20;
        const MapFlags flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed;
        var options = new MachineOptions { Profile = KernelProfile.Recorded, Memory = 16UL << 20, HugePages2M = 2 };
        using var machine = new Machine("huge", options);
        var space = new SpaceId((int)machine.Call(
            new CreateSpaceCall("s", new AddressSpaceLayout(), new TaskState())).Value);
        Assert.True(machine.Call(new MmapCall(space, at, huge, Prot.Read | Prot.Write, flags)).IsOk);

        var over = machine.TakenBy(new MmapCall(space, at, Page, Prot.Read | Prot.Write, flags | MapFlags.HugeTlb));
        Assert.Equal(huge, over.Aggregate(0UL, (sum, range) => sum + range.Range.Length));

        Assert.True(machine.Call(
            new MmapCall(space, at + (2 * huge), huge, Prot.Read | Prot.Write, flags | MapFlags.HugeTlb)).IsOk);
        Assert.Empty(machine.TakenBy(new MunmapCall(space, at + (2 * huge), Page)));
        const MremapFlags move = MremapFlags.MayMove | MremapFlags.Fixed;
        var moved = machine.TakenBy(new MremapCall(space, at + (2 * huge), Page, Page, move, at));
        Assert.Contains(moved, range => range.Range == new AddressRange(at, at + huge));
    }

    [Fact]
    public void A_protection_that_grows_down_announces_from_the_start_of_the_stack()
    {
        var layout = new AddressSpaceLayout { StackTop = 0x7FFF_0000_0000 };
        var space = new SpaceId((int)_machine.Call(new CreateSpaceCall("s", layout, new TaskState())).Value);
        var call = new MprotectCall(space, layout.StackTop - Page, Page, Prot.Read | Prot.GrowsDown);
        var taken = Assert.Single(_machine.TakenBy(call));
        Assert.Equal(layout.StackTop - layout.StackSize, taken.Range.Start);
    }

    private SpaceId New() => new((int)_machine.Call(
        new CreateSpaceCall(
            $"s{_spaces.Count}", new AddressSpaceLayout { StartBrk = 0x40_0000 }, new TaskState())).Value);

    private void One(Random random)
    {
        var space = _spaces[random.Next(_spaces.Count)];
        var at = Base + ((ulong)random.Next(Window) * Page);
        var length = (ulong)random.Next(1, 6) * Page;
        var skew = random.Next(12) == 0 ? 8UL : 0;
        var file = _files[random.Next(_files.Count)];
        switch (random.Next(22))
        {
            case < 4:
                var isFile = random.Next(2) == 0;
                var type = random.Next(2) == 0 ? MapFlags.Shared : MapFlags.Private;
                var flags = MapFlags.Fixed | type | (isFile ? 0 : MapFlags.Anonymous);
                var prot = random.Next(5) == 0 ? Prot.Read : Prot.Read | Prot.Write;
                Run(new MmapCall(space, at + skew, length, prot, flags) { File = isFile ? file : FileId.None });
                break;
            case 4:
                Run(new MunmapCall(space, at + skew, random.Next(10) == 0 ? 0 : length));
                break;
            case 5:
                Run(new MprotectCall(space, at + skew, length, (Prot)random.Next(4)));
                break;
            case 6:
                var target = Base + ((ulong)random.Next(Window) * Page);
                var moves = random.Next(2) == 0 ? MremapFlags.MayMove | MremapFlags.Fixed : MremapFlags.MayMove;
                Run(new MremapCall(space, at + skew, length, (ulong)random.Next(1, 6) * Page, moves, target));
                break;
            case 7:
                Advice[] advices =
                [
                    Advice.DontNeed, Advice.Free, Advice.Remove, Advice.PageOut, Advice.WillNeed, Advice.GuardInstall,
                    Advice.GuardRemove, Advice.Normal, Advice.PopulateWrite, Advice.PopulateRead,
                ];
                Run(new MadviseCall(space, at + skew, length, advices[random.Next(advices.Length)]));
                break;
            case 8:
                Run(new BrkCall(space, 0x40_0000 + ((ulong)random.Next(6) * Page)));
                break;
            case 9 when _spaces.Count < 3:
                var child = Run(new ForkCall(space, $"c{_machine.CommandNumber}"));
                if (child.IsOk) _spaces.Add(new SpaceId((int)child.Value));
                break;
            case 9:
                if (Run(new ExitCall(space)).IsOk) _spaces.Remove(space);
                break;
            case 16:
                Run(new MlockCall(space, at + skew, length, (uint)random.Next(2)));
                _machine.Call(new MunlockCall(space, at, length));
                break;
            case 17:
                Run(new FixupUserFaultCall(space, at, random.Next(2) == 0));
                break;
            case 19:
                // Over a hole msync writes the rest back, and answers -ENOMEM.
                Watch<MsyncCall, SyscallResult>(
                    new MsyncCall(space, at + skew, length, random.Next(2) == 0 ? MsyncFlags.Sync : MsyncFlags.Async),
                    static result => result.Error == Errno.EINVAL);
                break;
            case 20 when random.Next(4) == 0:
                Run(new ClearSoftDirtyCall(space));
                break;
            case 18 when random.Next(4) == 0:
                Run(default(CompactCall));
                break;
            default:
                Other(random, space, file, at, length, skew);
                break;
        }
    }

    private void Other(Random random, SpaceId space, FileId file, ulong at, ulong length, ulong skew)
    {
        switch (random.Next(10))
        {
            case 0:
                Run(new TruncateCall(file, (ulong)random.Next(4, 13) * Page));
                break;
            case 1:
                Run(new PunchHoleCall(file, (ulong)random.Next(12) * Page, length + skew));
                break;
            case < 5:
                Watch<TouchCall, AccessResult>(
                    new TouchCall(space, at, random.Next(1, 4), random.Next(3) != 0), _ => false);
                break;
            case 5 when _vectors.Count > 6:
                _machine.Put(_vectors[0], isDirty: false);
                _machine.DestroyVector(_vectors[0]);
                _vectors.RemoveAt(0);
                break;
            default:
                Pin(random, space, at);
                break;
        }
    }

    private void Pin(Random random, SpaceId space, ulong at)
    {
        var vector = _machine.CreateVector(4)!;
        var flags = (random.Next(2) == 0 ? GupFlags.Write : 0) | (random.Next(2) == 0 ? GupFlags.LongTerm : 0);
        var request = new PinRequest(space, at, random.Next(1, 5), flags) { Call = GupCall.PinUserPagesFast };
        var taken = _machine.TakenBy(new PinCall(request, vector.Id, 4, 0));
        var before = Pages();
        // A refused pin may have announced pages behind the one that it could not fault in, and a migration that fails
        // is announced rightly, since the kernel unmaps the page and puts it back (try_to_migrate).
        _machine.Pin(request, vector);
        Compare($"{request}", taken, before);
        if (vector.Count > 0) _vectors.Add(vector);
        else _machine.DestroyVector(vector);
    }

    private SyscallResult Run<TCommand>(TCommand command)
        where TCommand : struct, ISyscall<TCommand>, IInvalidating =>
        Watch<TCommand, SyscallResult>(command, static result => !result.IsOk && !result.IsPartial);

    private TResult Watch<TCommand, TResult>(TCommand command, Func<TResult, bool> isRefused)
        where TCommand : struct, ICommand<TCommand, TResult>, IInvalidating
    {
        var taken = _machine.TakenBy(command);
        var before = Pages();
        var result = _machine.Execute<TCommand, TResult>(command);
        Compare($"{command}", taken, before);
        if (!isRefused(result) || taken.Count == 0 || HasChanged(taken, before)) return result;
        Vain($"{command} ({result})", taken[0]);
        return result;
    }

    private bool HasChanged(IReadOnlyList<TakenRange> taken, Dictionary<(SpaceId, ulong), Pfn> before) =>
        before.Any(page => _machine.Query<TranslateQuery, Pfn?>(new(page.Key.Item1, page.Key.Item2)) != page.Value
            && taken.Any(range => range.Space == page.Key.Item1 && range.Range.Contains(page.Key.Item2)));

    private void Vain(object call, TakenRange range)
    {
        _vainAnnouncements++;
        TestContext.Current.TestOutputHelper?.WriteLine($"{call} was refused, and announced {range}");
    }

    private void Compare(string name, IReadOnlyList<TakenRange> taken, Dictionary<(SpaceId, ulong), Pfn> before)
    {
        foreach (var range in taken) _seen[range.Cause] = _seen.GetValueOrDefault(range.Cause) + 1;
        foreach (var ((space, address), pfn) in before)
        {
            if (_machine.Query<TranslateQuery, Pfn?>(new(space, address)) == pfn) continue;
            if (taken.Any(range => range.Space == space && range.Range.Contains(address))) continue;
            _silentChanges++;
            TestContext.Current.TestOutputHelper?.WriteLine($"{name} took 0x{address:x} of {space} without a word");
        }
    }

    /// <summary>The frame under each address that the test looks at.</summary>
    private Dictionary<(SpaceId Space, ulong Address), Pfn> Pages()
    {
        var pages = new Dictionary<(SpaceId, ulong), Pfn>();
        foreach (var space in _spaces)
        {
            for (var i = 0; i < Window + 6; i++) Add(Base + ((ulong)i * Page));
            for (var i = 0; i < 6; i++) Add(0x40_0000 + ((ulong)i * Page));

            void Add(ulong address)
            {
                var pfn = _machine.Query<TranslateQuery, Pfn?>(new(space, address));
                if (pfn is { } mapped) pages[(space, address)] = mapped;
            }
        }

        return pages;
    }
}
