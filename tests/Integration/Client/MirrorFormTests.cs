using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>The three ways into a mirror, and what each does while the range changes.</summary>
public sealed class MirrorFormTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong Page = 4096;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task A_visit_spans_awaits_and_shows_what_others_store()
    {
        await using var rig = await Rig.CreateAsync(daemon.Client);
        using var visit = await rig.Mirror.EnterAsync(TestContext.Current.CancellationToken);
        await rig.Space.WriteAsync(rig.Address + Page, new byte[] { 5 });
        Assert.Equal((5, true), (visit.Bytes[(int)Page], visit.IsMapped(Page)));
        visit.Bytes[0] = 6;
        var read = new byte[1];
        await rig.Space.ReadAsync(rig.Address, read);
        Assert.Equal(6, read[0]);
    }

    [Fact]
    public async Task While_the_range_changes_the_try_form_says_no_and_the_async_form_waits()
    {
        await using var rig = await Rig.CreateAsync(daemon.Client);
        var inside = await rig.Mirror.EnterAsync(TestContext.Current.CancellationToken);
        var unmapping = rig.Space.MunmapAsync(rig.Address, Page);
        using var patience = new CancellationTokenSource(Patience);
        while (rig.TryVisit())
        {
            patience.Token.ThrowIfCancellationRequested();
            await Task.Yield();
        }

        using var giveUp = new CancellationTokenSource();
        var given = rig.Mirror.EnterAsync(giveUp.Token);
        var waiting = rig.Mirror.EnterAsync(patience.Token);
        Assert.Equal((false, false, false), (given.IsCompleted, waiting.IsCompleted, unmapping.IsCompleted));
        await giveUp.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () => await given);
        inside.Dispose();
        await unmapping.WaitAsync(Patience);
        using var next = await waiting;
        Assert.Equal((false, true), (next.IsMapped(0), next.IsMapped(Page)));
        Assert.True(rig.TryVisit());
    }

    [Fact]
    public async Task A_visit_that_is_disposed_twice_leaves_once_and_shows_nothing_any_more()
    {
        await using var rig = await Rig.CreateAsync(daemon.Client);
        var other = await rig.Mirror.EnterAsync(TestContext.Current.CancellationToken);
        var visit = await rig.Mirror.EnterAsync(TestContext.Current.CancellationToken);
        visit.Dispose();
        visit.Dispose();
        Assert.Throws<ObjectDisposedException>(() => visit.Bytes.Length);
        Assert.Throws<ObjectDisposedException>(() => visit.IsMapped(0));
        // The other is inside still: its pages stay.
        var unmapping = rig.Space.MunmapAsync(rig.Address, Page);
        using var patience = new CancellationTokenSource(Patience);
        while (rig.TryVisit())
        {
            patience.Token.ThrowIfCancellationRequested();
            await Task.Yield();
        }

        Assert.False(unmapping.IsCompleted);
        other.Dispose();
        await unmapping.WaitAsync(Patience);
    }

    [Fact]
    public async Task No_way_leads_into_a_mirror_whose_space_has_exited()
    {
        await using var rig = await Rig.CreateAsync(daemon.Client);
        await rig.Space.ExitAsync(TestContext.Current.CancellationToken);
        using var patience = new CancellationTokenSource(Patience);
        // The watch ends behind the exit: whoever waits for the next change is told.
        var entering = Task.Run(
            async () =>
            {
                while (true)
                {
                    using var visit = await rig.Mirror.EnterAsync(patience.Token);
                    await Task.Yield();
                }
            },
            patience.Token);
        await Assert.ThrowsAsync<InvalidOperationException>(() => entering);
        Assert.Throws<InvalidOperationException>(() => rig.TryVisit());
        Assert.Throws<InvalidOperationException>(() => rig.Mirror.Enter().Dispose());
    }

    [Fact]
    public void A_view_that_was_not_entered_shows_nothing() =>
        Assert.Throws<InvalidOperationException>(() => default(SpaceMirror.View).Bytes.Length);

    /// <summary>Four pages of an address space, mirrored.</summary>
    private sealed class Rig(FramePinAddressSpace space, ulong address, LocalMachine local, SpaceMirror mirror)
        : IAsyncDisposable
    {
        public FramePinAddressSpace Space => space;

        public ulong Address => address;

        public SpaceMirror Mirror => mirror;

        public static async Task<Rig> CreateAsync(FramePinClient client)
        {
            var machine = await client.CreateMachineAsync(new MachineSpec { Profile = "6.18", MemoryBytes = 64 << 20 });
            var space = await machine.CreateAddressSpaceAsync();
            var address = await space.MmapAsync(4 * Page);
            var local = await machine.AttachAsync();
            return new Rig(space, address, local, await local.MirrorAsync(space.Name, address, 4 * Page));
        }

        /// <summary>Goes in and out where that is possible at once.</summary>
        public bool TryVisit()
        {
            if (!mirror.TryEnter(out var view)) return false;
            view.Dispose();
            return true;
        }

        public async ValueTask DisposeAsync()
        {
            await mirror.DisposeAsync();
            local.Dispose();
        }
    }
}
