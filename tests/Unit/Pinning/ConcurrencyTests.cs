using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>Pins beside each other and beside commands (Semantics 8, race expectations a to e).</summary>
[Collection("alone")]
public sealed class ConcurrencyTests
{
    private const ulong At = 0x100_0000;
    private const int Pages = 128;
    private const ulong Page = Lab.Page;
    private const int Rounds = 4000;

    [Fact]
    public async Task Pins_race_with_munmap_fork_dontneed_and_the_books_balance()
    {
        var seed = (int)(DateTime.UtcNow.Ticks & 0x7fffffff);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(At, Pages);
        var pinners = Enumerable.Range(0, 3).Select(
            i => Task.Run(() => Pinner(lab, new Random(seed + i)), TestContext.Current.CancellationToken));
        var mutator = Task.Run(() => Mutator(lab, new Random(seed - 1)), TestContext.Current.CancellationToken);
        var pinned = (await Task.WhenAll(pinners)).Sum();
        await mutator;
        Assert.True(pinned > 0);
        Assert.Empty(lab.Machine.Audit());
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    [Fact]
    public async Task Deleting_a_machine_under_its_pins_refuses_them_and_crashes_nothing()
    {
        for (var round = 0; round < 50; round++)
        {
            var machine = new Machine(
                "gone", new MachineOptions { Profile = KernelProfile.Recorded, Memory = 16UL << 20 });
            var space = machine.CreateAddressSpace("app", new AddressSpaceLayout(), new TaskState())!;
            machine.Mmap(space, new MmapRequest
            {
                Address = At,
                Length = Pages * Page,
                Prot = Prot.Read | Prot.Write,
                Flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed,
            });
            machine.TouchRange(space, At, Pages, isWrite: true, out _);
            using var begun = new CountdownEvent(2);
            var users = Enumerable.Range(0, 2).Select(_ => Task.Run(
                () => Assert.Throws<ObjectDisposedException>((Action)(() => UseForEver(machine, space, begun)))))
                    .ToArray();
            begun.Wait(TestContext.Current.CancellationToken);
            machine.Dispose();
            await Task.WhenAll(users);
        }
    }

    private static void UseForEver(Machine machine, AddressSpace space, CountdownEvent begun)
    {
        var vector = machine.CreateVector(Pages)!;
        var buffer = new byte[Pages * 4096];
        begun.Signal();
        while (true)
        {
            machine.GetVaddrFrames(space, At, Pages, GupFlags.Write, vector);
            machine.CopyFrames(vector, 0, buffer, isWrite: true, out _);
            machine.PutVaddrFrames(vector);
        }
    }

    /// <summary>
    /// The races of Semantics 8, one at a time: three threads pin and unpin while a fourth does nothing but
    /// the other thing. At the end pins are still held: every one is on a page that lives, an anonymous page that is
    /// pinned belongs to one address space alone, the counters agree with what is held; after the last put the audit
    /// finds mappings and caches only.
    /// </summary>
    [Theory]
    [InlineData("munmap")]
    [InlineData("fork")]
    [InlineData("MADV_DONTNEED")]
    [InlineData("truncate")]
    [InlineData("migration")]
    [InlineData("mremap")]
    public async Task A_race_leaves_what_section_8_expects(string race)
    {
        var seed = (int)(DateTime.UtcNow.Ticks & 0x7fffffff);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        using var lab = new Lab(configure: options => options with
        {
            AuditsEachCommand = false,
            MovableMemory = race == "migration" ? 32UL << 20 : 0,
        });
        var file = race == "truncate" ? lab.Machine.CreateFile("/f", FileKind.Shmem, Pages * Page) : null;
        if (file is not null) lab.MapFile(At, Pages, file, MapFlags.Shared, Prot.Read | Prot.Write);
        else lab.Anon(At, Pages);
        var children = new List<AddressSpace>();
        using var stop = new CancellationTokenSource();
        var mutator = Task.Run(() => Mutate(lab, race, file, children, new Random(seed), stop.Token),
            TestContext.Current.CancellationToken);
        var pinners = Enumerable.Range(1, 3).Select(i => Task.Run(
            () => PinBesideRace(lab, new Random(seed + i), race), TestContext.Current.CancellationToken)).ToList();
        var held = (await Task.WhenAll(pinners)).SelectMany(vectors => vectors).ToList();
        await stop.CancelAsync();
        Assert.True(await mutator > 0);

        var views = held.SelectMany(vector => lab.Machine.ViewPages(vector, 0, (int)vector.Count)).ToList();
        Assert.True(views.Count > 0);
        Assert.All(views, view => Assert.True(view.RefCount > 0 && view.MaybeDmaPinned));
        Assert.Equal(views.Count, lab.Machine.PinStatistics.Acquired - lab.Machine.PinStatistics.Released);
        var pinned = views.Where(view => (view.Flags & FrameFlags.Anon) != 0).Select(
            view => view.Pfn.Value).ToHashSet();
        var mappings = children.Append(lab.Space)
            .SelectMany(space => lab.Machine.Pagemap(space, At, Pages).Select(entry => entry & PfnOfPagemap))
            .Where(pinned.Contains).GroupBy(pfn => pfn);
        Assert.All(mappings, mapping => Assert.Single(mapping));
        lab.Drop([.. held]);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
        foreach (var child in children) lab.Machine.Exit(child);
        Assert.Empty(lab.Machine.Audit());
    }

    private const ulong PfnOfPagemap = (1UL << 55) - 1;

    private static List<FrameVector> PinBesideRace(Lab lab, Random random, string race)
    {
        var vectors = Enumerable.Range(0, 8).Select(_ => lab.Vector(16)).ToList();
        for (var i = 0; i < Rounds; i++)
        {
            var vector = vectors[random.Next(vectors.Count)];
            lab.Machine.PutVaddrFrames(vector);
            var start = At + ((ulong)random.Next(Pages) * Page);
            var result = lab.Machine.GetVaddrFrames(
                lab.Space, start, random.Next(1, 17), GupFlags.Write, vector).Result;
            // A folio that another pin holds cannot be moved out of ZONE_MOVABLE: -ENOMEM (row 34).
            var isExpected = result.Pages > 0 || result.Error == Errno.EFAULT
                || (race == "migration" && result.Error == Errno.ENOMEM);
            Assert.True(isExpected, $"{race}: {result}");
            Span<byte> one = [(byte)random.Next(256)];
            if (result.Pages > 0) Assert.Equal(1, lab.Machine.CopyFrames(vector, 0, one, isWrite: true, out _));
        }

        return vectors;
    }

    private static int Mutate(
        Lab lab, string race, MemoryFile? file, List<AddressSpace> children, Random random, CancellationToken stop)
    {
        var done = 0;
        for (; done < Rounds * 4 && !stop.IsCancellationRequested; done++)
        {
            var start = At + ((ulong)random.Next(Pages - 8) * Page);
            switch (race)
            {
                case "munmap":
                    lab.Machine.Munmap(lab.Space, start, 4 * Page);
                    lab.Map(start, 4, Prot.Read | Prot.Write, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);
                    break;
                case "fork":
                    if (children.Count == 4)
                    {
                        lab.Machine.Exit(children[0]);
                        children.RemoveAt(0);
                    }

                    if (lab.Machine.Fork(lab.Space, $"child{done}", out _) is { } child) children.Add(child);
                    break;
                case "MADV_DONTNEED":
                    lab.Machine.Madvise(lab.Space, start, 4 * Page, Advice.DontNeed);
                    break;
                case "migration":
                    // Pages that a program touches lie in ZONE_MOVABLE again.
                    lab.Machine.Madvise(lab.Space, start, 4 * Page, Advice.DontNeed);
                    lab.Machine.TouchRange(lab.Space, start, 4, isWrite: true, out _);
                    break;
                case "truncate":
                    lab.Machine.Truncate(file!, (ulong)random.Next(Pages) * Page);
                    lab.Machine.Truncate(file!, Pages * Page);
                    break;
                default:
                    const ulong away = At + 0x100_0000;
                    var flags = MremapFlags.MayMove | MremapFlags.Fixed;
                    lab.Machine.Mremap(lab.Space, start, 4 * Page, 4 * Page, flags, away);
                    lab.Machine.Mremap(lab.Space, away, 4 * Page, 4 * Page, flags, start);
                    break;
            }
        }

        return done;
    }

    private static long Pinner(Lab lab, Random random)
    {
        var pinned = 0L;
        var vectors = Enumerable.Range(0, 8).Select(_ => lab.Vector(16)).ToArray();
        for (var i = 0; i < Rounds; i++)
        {
            var vector = vectors[random.Next(vectors.Length)];
            if (vector.Count > 0)
            {
                lab.Machine.PutVaddrFrames(vector);
                continue;
            }

            var count = random.Next(1, 17);
            var start = At + ((ulong)random.Next(Pages) * Page);
            var result = lab.Machine.GetVaddrFrames(
                lab.Space, start, count, random.Next(2) == 0 ? GupFlags.Write : 0, vector).Result;
            Assert.True(result.Pages > 0 || result.Error == Errno.EFAULT, $"{result}");
            // Whatever was pinned is usable, whoever unmapped it meanwhile.
            Span<byte> one = [1];
            if (result.Pages > 0) Assert.Equal(1, lab.Machine.CopyFrames(vector, 0, one, isWrite: true, out _));
            pinned += result.Pages;
        }

        lab.Drop(vectors);
        return pinned;
    }

    private static void Mutator(Lab lab, Random random)
    {
        for (var i = 0; i < Rounds / 2; i++)
        {
            var start = At + ((ulong)random.Next(Pages - 8) * Page);
            switch (random.Next(5))
            {
                case 0:
                    lab.Machine.Munmap(lab.Space, start, 4 * Page);
                    break;
                case 1:
                    lab.Map(start, 8, Prot.Read | Prot.Write, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);
                    break;
                case 2:
                    lab.Machine.Madvise(lab.Space, start, 4 * Page, Advice.DontNeed);
                    break;
                case 3:
                    lab.Machine.TouchRange(lab.Space, start, 8, isWrite: true, out _);
                    break;
                default:
                    if (lab.Machine.Fork(lab.Space, "child", out _) is { } child) lab.Machine.Exit(child);
                    break;
            }
        }
    }
}
